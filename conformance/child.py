"""A server in a process of its own, which ends with its standard input."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Final

from conformance.go import REPOSITORY
from conformance.outcome import SuiteError

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0


@contextlib.contextmanager
def server(module: str, *arguments: str) -> Iterator[int]:
    """Run ``python -m module arguments``, which prints its port as a line of JSON, and give the port.

    Raises:
        SuiteError: it ended, or did not print a port in time; the message ends with the last line of its stderr.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
            line = process.stdout.readline() if readable else b""
            if not line:
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                raise SuiteError(f"the server did not start: {lines[-1] if lines else 'it says nothing'}")
            yield json.loads(line)["port"]
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
