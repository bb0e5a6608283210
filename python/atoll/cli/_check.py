"""The command `atoll check`: imports a policy, which checks it, and shows which module lives on which loop.

It needs nothing but Atoll, so that it can run wherever the service's code can be imported. Exit codes: 0 the policy is
right; 1 it is not, or can't be imported; 2 wrong usage; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import atoll
from atoll.cli._map import PolicyMap, as_json, as_table
from atoll.cli._picture import as_svg
from atoll.errors import PlacementError
from atoll.placement import IoContextPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType, TracebackType

    from typing_extensions import TypeIs

_FORM: Final = "package.module:Policy, or package.module for all policies of the module"
_TARGET: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?")
_ATOLL: Final = str(Path(atoll.__file__).parent) + os.sep
_STOPPED: Final = 130
# Long enough for a name with a typo, short enough for a message.
_MOST_NAMES: Final = 10


class _WrongUsageError(Exception):
    """What was asked for can't be done; exit code 2."""


class _BrokenError(Exception):
    """The policy is wrong, or its module; exit code 1."""


def check(arguments: Sequence[str]) -> int:
    """Runs the command.

    Args:
        arguments: What follows `atoll check`.

    Returns:
        The exit code.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        maps = [PolicyMap.of(title, policy) for title, policy in _policies(given.target)]
        if given.svg is not None:
            _write(given.svg, as_svg(maps))
    except _WrongUsageError as problem:
        parser.error(str(problem))
    except _BrokenError as problem:
        sys.stderr.write(f"atoll check: {problem}\n")
        return 1
    except KeyboardInterrupt:
        return _STOPPED
    sys.stdout.write(json.dumps(as_json(maps), indent=2) + "\n" if given.output == "json" else as_table(maps))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atoll check",
        description="Checks a policy by importing it, and shows which module lives on which loop.",
        epilog="Exit code 0: the policy is right. 1: it is not, or can't be imported. 2: wrong usage.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "target", metavar="package.module:Policy", help="the policy; without :Policy all policies of the module"
    )
    parser.add_argument("--svg", metavar="FILE", type=Path, help="also draw the map")
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json"),
        default="table",
        help="how the map is printed (default: %(default)s)",
    )
    return parser


# ------------------------------------------------------------------------------------------------- finding the policies


def _policies(target: str) -> list[tuple[str, type[IoContextPolicy[Any]]]]:
    """The policies that `target` names, each with its own full name."""
    if _TARGET.fullmatch(target) is None:
        raise _WrongUsageError(f"{target!r} is not of the form {_FORM}{_did_you_mean(target)}")
    name, _, wanted = target.partition(":")
    module = _import(name)
    if wanted:
        return [(target, _policy(module, name, wanted))]
    found = dict(_policies_in(module))
    if not found:
        raise _WrongUsageError(f"module {name} has no policy: name the one that has it, {_FORM}")
    return [(f"{name}:{attribute}", policy) for attribute, policy in found.items()]


def _did_you_mean(target: str) -> str:
    """What a file's path was meant to be."""
    path, colon, policy = target.partition(":")
    if not (path.endswith(".py") or "/" in path):
        return ""
    parts = [part for part in path.removesuffix(".py").split("/") if part not in {"", "."}]
    return f": a module is named, not its file, so write {'.'.join(parts)}{colon}{policy}"


def _policy(module: ModuleType, name: str, wanted: str) -> type[IoContextPolicy[Any]]:
    known = dict(_policies_in(module))
    listed = f"the policies of {name} are {', '.join(list(known)[:_MOST_NAMES]) or 'none'}"
    value: object = module
    for attribute in wanted.split("."):
        try:
            value = getattr(value, attribute)
        except AttributeError:
            close = difflib.get_close_matches(wanted, known, n=1)
            remedy = f"did you mean {name}:{close[0]}?" if close else listed
            raise _WrongUsageError(f"module {name} has no {wanted!r}: {remedy}") from None
    if not _is_policy(value):
        raise _WrongUsageError(f"{name}:{wanted} is {value!r}, not a policy: {listed}")
    return value


def _policies_in(module: ModuleType) -> Iterator[tuple[str, type[IoContextPolicy[Any]]]]:
    """The module's policies by their names there, each once."""
    seen: set[object] = set()
    for name, value in vars(module).items():
        if _is_policy(value) and value not in seen:
            seen.add(value)
            yield name, value


def _is_policy(value: object) -> TypeIs[type[IoContextPolicy[Any]]]:
    return isinstance(value, type) and issubclass(value, IoContextPolicy) and value is not IoContextPolicy


# -------------------------------------------------------------------------------------------------- importing a module


def _import(name: str) -> ModuleType:
    """Imports the module as `python -m` would: the working directory comes first."""
    here = str(Path.cwd())
    if not {here, ""} & set(sys.path):
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except PlacementError as problem:
        raise _BrokenError(f"{_where(problem.__traceback__)}{problem}") from None
    except ModuleNotFoundError as problem:
        if problem.name is not None and f"{name}.".startswith(f"{problem.name}."):
            raise _WrongUsageError(
                f"there is no module {problem.name!r} in {here}, nor where Python looks: write {_FORM}"
            ) from None
        _fail_to_import(name, problem)
    except (Exception, SystemExit) as problem:  # noqa: BLE001 - whatever the module did
        _fail_to_import(name, problem)


def _fail_to_import(name: str, problem: BaseException) -> NoReturn:
    """Shows what the module did, from its own first line on."""
    steps = problem.__traceback__
    while steps is not None and _is_importing(steps.tb_frame.f_code.co_filename):
        steps = steps.tb_next
    text = "".join(traceback.format_exception(type(problem), problem, steps)).rstrip()
    raise _BrokenError(f"importing {name} failed\n{text}") from None


def _is_importing(file: str) -> bool:
    return file in {__file__, importlib.__file__} or file.startswith("<frozen importlib")


def _where(steps: TracebackType | None) -> str:
    """The user's line that a policy's error comes from, as compilers write it."""
    found = ""
    for frame, line in traceback.walk_tb(steps):
        file = frame.f_code.co_filename
        if not (file.startswith(_ATOLL) or _is_importing(file)):
            with_directory = Path(file)
            here = Path.cwd()
            shown = with_directory.relative_to(here) if with_directory.is_relative_to(here) else with_directory
            found = f"{shown}:{line}: "
    return found


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise _BrokenError(f"--svg: {problem}") from None
