"""What the figures were measured on: processor, kernel, Python, versions of everything compared."""

from __future__ import annotations

import os
import platform
import subprocess
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Final

from benchmarks import h2load

PEERS: Final = ("atoll", "grpcio", "protobuf", "uvloop", "rloop", "pygrpc-native")


def facts() -> dict[str, str]:
    """Collect the facts; what can't be found out reads ``unknown``."""
    versions = {name: _version(name) for name in PEERS}
    return {
        "processor": _processor(),
        "cores": str(_cores()),
        "load before": _load(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}{_build()}",
        "h2load": h2load.version(),
        **versions,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.strip()
    return platform.processor() or "unknown"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f} processes over the last minute"


def _build() -> str:
    return " free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
