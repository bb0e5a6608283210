"""A child that holds connections open (``holder.py``), and waiting until all that it was promised has come."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from benchmarks.processes import Child, ChildFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.h2load import Target

_OPEN_TIMEOUT: Final = 120.0
_WAIT_TIMEOUT: Final = 120.0
_POLL_SECONDS: Final = 0.02


class Held:
    """Connections that stay open until the context ends. One thread at a time."""

    def __init__(self, child: Child) -> None:
        """Made by ``holding``."""
        self._child = child

    def open(self, connections: int, calls: int) -> None:
        """Open more connections and make ``calls`` calls on each, without waiting for replies."""
        self._checked(self._child.ask(f"open {connections} {calls}", _OPEN_TIMEOUT))

    def wait_for(self, what: str, count: int) -> None:
        """Wait until ``data_bytes`` or ``ended`` calls have come to ``count``.

        Raises:
            ChildFailedError: it did not come to that, or went beyond.
        """
        wait_until(lambda: self._checked(self._child.ask("counts"))[what], count, what)

    def _checked(self, counts: dict[str, Any]) -> dict[str, Any]:
        if counts["error"] is not None:
            raise ChildFailedError(f"the client lost its connections, {counts}")
        return counts


@contextlib.contextmanager
def holding(target: Target) -> Iterator[Held]:
    """Run a client for ``target``."""
    with Child("benchmarks.holder", target.scheme, str(target.port), target.path, str(target.body)) as child:
        yield Held(child)


def wait_until(count: Callable[[], int], expected: int, what: str, timeout: float = _WAIT_TIMEOUT) -> None:
    """Ask for a count until it is as expected.

    Raises:
        ChildFailedError: it is not in time, or is beyond.
    """
    deadline = time.monotonic() + timeout
    while (now := count()) != expected:
        if now > expected or time.monotonic() > deadline:
            raise ChildFailedError(f"{what} should be {expected} and is {now}")
        time.sleep(_POLL_SECONDS)
