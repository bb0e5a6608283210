"""The etcd that tests run."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "etcd"


@functools.cache
def program() -> str:
    """The path of an etcd; skips the test, saying why, where there is none."""
    found = subprocess.run([SCRIPT, "--quick"], capture_output=True, text=True, timeout=300, check=False)
    if found.returncode:
        pytest.skip(found.stderr.strip().splitlines()[-1])
    return found.stdout.strip()
