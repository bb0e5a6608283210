"""Each public name has exactly one home, and importing Atoll changes nothing in the process."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import types

import pytest

import atoll

LAYERS = sorted(
    module.name
    for module in pkgutil.iter_modules(atoll.__path__, "atoll.")
    if module.name.rpartition(".")[2] not in {"_core", "cli"}
)


def layers() -> list[types.ModuleType]:
    return [importlib.import_module(name) for name in LAYERS]


def public_names(module: types.ModuleType) -> set[str]:
    names: list[str] = getattr(module, "__all__", [])
    return set(names)


@pytest.mark.parametrize("name", ["atoll", *LAYERS])
def test_what_a_module_offers_is_what_it_lists(name: str) -> None:
    module = importlib.import_module(name)
    assert "__all__" in vars(module), "a public module says what it offers"
    listed: list[str] = module.__all__
    assert len(listed) == len(set(listed))
    assert all(hasattr(module, each) for each in listed)
    own = {
        each
        for each, value in vars(module).items()
        if not each.startswith("_") and not isinstance(value, types.ModuleType) and _is_atolls(value)
    }
    assert own <= set(listed), "a name without an underscore is public"


def _is_atolls(value: object) -> bool:
    return str(getattr(value, "__module__", "")).startswith("atoll")


def test_each_public_name_has_exactly_one_home() -> None:
    # Two things may have one name, such as `rpc.serve` and `testing.serve`; one thing has one home.
    homes: dict[tuple[str, int], str] = {}
    for module in layers():
        for name in public_names(module):
            thing = name, id(getattr(module, name))
            assert homes.setdefault(thing, module.__name__) == module.__name__, f"{name} has two homes"


def test_the_front_door_offers_only_what_has_a_home() -> None:
    homes = [*layers(), importlib.import_module("atoll._core")]
    for name in atoll.__all__:
        value = getattr(atoll, name)
        if not isinstance(value, types.ModuleType):
            assert any(getattr(home, name, None) is value for home in homes), f"{name} has no home"


UNCHANGED = """
import gc, os, signal, sys, threading
import asyncio, logging, importlib, atexit, warnings, concurrent.futures  # Python's own may do as they like

def state():
    return {
        "threads": [thread.name for thread in threading.enumerate()],
        "native threads": len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 1,
        "switch interval": sys.getswitchinterval(),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "event loop policy": getattr(asyncio.events, "_event_loop_policy", None),
        "excepthook": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "exit hooks": atexit._ncallbacks(),
        "log handlers": list(logging.getLogger().handlers) + list(logging.getLogger("atoll").handlers),
        "warning filters": list(warnings.filters),
        "open files": len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0,
        "gc": gc.get_threshold(),
        "environment": dict(os.environ),
    }

before = state()
import atoll
import atoll.loop, atoll.placement, atoll.observe, atoll.chaos, atoll.errors
after = state()
for key in before:
    assert before[key] == after[key], (key, before[key], after[key])
assert "grpc" not in sys.modules, "grpcio is an extra"
assert "uvloop" not in sys.modules, "uvloop is an extra"
assert "prometheus_client" not in sys.modules, "prometheus-client is an extra"
assert "opentelemetry" not in sys.modules, "OpenTelemetry is an extra"
"""


def test_importing_atoll_changes_nothing_in_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", UNCHANGED], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
