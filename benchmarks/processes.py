"""Child processes that are measured: started, spoken to in lines of JSON, and ended for sure.

A child announces itself with one line, then answers each line that it is sent with one line. It ends when its standard
input does, so not even a killed benchmark leaves a server behind (`servers/control.py` is the other side).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self, cast

if TYPE_CHECKING:
    from types import TracebackType

REPOSITORY: Final = Path(__file__).resolve().parent.parent
_STOP_TIMEOUT: Final = 5.0


class ChildFailedError(Exception):
    """A child process ended, or said nothing in time; the message ends with the last lines of its stderr."""


class UnavailableError(Exception):
    """What the child should run is not installed; the message names it. The benchmark leaves out its row."""


class Child:
    """A ``python -m`` child. Use as a context manager, from one thread."""

    def __init__(self, module: str, *arguments: str, start_timeout: float = 20.0) -> None:
        """Prepare to run ``python -m module arguments`` in the repository's root."""
        self._command = [sys.executable, "-m", module, *arguments]
        self._start_timeout = start_timeout
        self._stderr: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self.announcement: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Start the child and wait for its announcement, an object in JSON.

        Raises:
            UnavailableError: what it runs is not installed.
            ChildFailedError: it ended or stayed silent.
        """
        self._stderr = cast("IO[bytes]", tempfile.TemporaryFile())
        self._process = subprocess.Popen(
            self._command,
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
        )
        try:
            self.announcement = self.receive(self._start_timeout)
        except BaseException:
            self._end()
            raise
        if "unavailable" in self.announcement:
            self._end()
            raise UnavailableError(self.announcement["unavailable"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the child: close its input, then kill it if that was not enough."""
        self._end()

    def ask(self, request: str, timeout: float = 10.0) -> dict[str, Any]:
        """Send one line and return the answer.

        Raises:
            ChildFailedError: none came in ``timeout`` seconds.
        """
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(f"{request}\n".encode())
        except BrokenPipeError as error:
            raise self._failure(self._end_in_words()) from error
        return self.receive(timeout)

    def receive(self, timeout: float) -> dict[str, Any]:
        """Return the next line of JSON; other lines, which a library may print, are skipped.

        Raises:
            ChildFailedError: none came in ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                with contextlib.suppress(ValueError):
                    value = json.loads(line)
                    if isinstance(value, dict):
                        return value
            else:
                self._unread += self._read(deadline)

    def _read(self, deadline: float) -> bytes:
        process = self._running()
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise self._failure("said nothing in time")
        content = os.read(process.stdout.fileno(), 65536)
        if not content:
            raise self._failure(self._end_in_words())
        return content

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the child is not running; enter it first: with Child(...) as child:")
        return self._process

    def _end_in_words(self) -> str:
        """Say how the child ended: what a signal killed has no words of its own."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._running().wait(_STOP_TIMEOUT)
            return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return "closed its output"

    def _failure(self, what: str) -> ChildFailedError:
        shown = ""
        if self._stderr is not None:
            self._stderr.seek(0)
            shown = self._stderr.read().decode(errors="replace").strip()[-2000:]
        return ChildFailedError(f"{' '.join(self._command[1:])} {what}: {shown or 'its stderr is empty'}")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None
