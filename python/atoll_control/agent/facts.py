"""What a machine is and offers, as far as it can be read. Any thread; reads files of the kernel only."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path
from typing import Final

from atoll_control.api.v1 import node_pb2

_MAX_BYTES: Final = 256
_CGROUP: Final = Path("/sys/fs/cgroup")


def host() -> node_pb2.Host:
    """The machine; what can't be read is left out."""
    return node_pb2.Host(
        name=_bounded(socket.gethostname()),
        cpus=os.cpu_count() or 0,
        memory_bytes=_memory_bytes(),
        os=_bounded(platform.system().lower()),
        architecture=_bounded(platform.machine()),
    )


def resources() -> dict[str, float]:
    """What processes of this machine, or of this container, may use: "cpu", in cores, and "memory", in bytes."""
    found: dict[str, float] = {}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if cpus := _smallest(usable, _cpu_limit()):
        found["cpu"] = float(cpus)
    if memory := _smallest(_memory_bytes(), _memory_limit()):
        found["memory"] = float(memory)
    return found


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


# The limits of a container stand at the root of what it sees of the cgroups; a machine's root has no such files. Those
# of the agent's own service are of the agent, and not looked at.


def _cpu_limit() -> float | None:
    words = _first_line(_CGROUP / "cpu.max").split()
    try:
        quota, period = (float(word) for word in words)
    except ValueError:  # "max", or no file
        return None
    return quota / period if period > 0 else None


def _memory_limit() -> int | None:
    text = _first_line(_CGROUP / "memory.max")
    return int(text) if text.isdigit() else None


def _smallest(*values: float | None) -> float | None:
    return min((value for value in values if value), default=None)


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").partition("\n")[0]
    except (OSError, ValueError):
        return ""


def _bounded(text: str) -> str:
    return text.encode()[:_MAX_BYTES].decode(errors="ignore")
