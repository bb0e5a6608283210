"""`LoopWatch`: which loops a test session starts and does not stop, and who started them.

On the thread that runs the tests.
"""

import contextlib
import weakref
from collections.abc import Generator, Iterable

from atoll.loop import IoContext
from atoll.loop._io_context import _contexts, _contexts_lock


class LoopWatch:
    """The loops of a test session. Those that run when it is made are not the session's."""

    def __init__(self) -> None:
        self._not_ours = weakref.WeakSet(_running())
        # The fixture that started a loop, and the test that the fixture is set up for, if for one only.
        self._started_by: weakref.WeakKeyDictionary[IoContext, tuple[str, object]] = weakref.WeakKeyDictionary()

    @contextlib.contextmanager
    def fixture(self, name: str, test: object) -> Generator[None]:
        """Notes which loops the fixture `name` starts in the block; a fixture that it asks for has noted its own."""
        before = _running()
        try:
            yield
        finally:
            for io_context in _running() - before:
                self._started_by.setdefault(io_context, (name, test))

    def left_by(self, test: object) -> str:
        """Stops the loops that fixtures of `test` alone have left running; says which, or nothing."""
        return self._stop(it for it, (_, of_test) in list(self._started_by.items()) if of_test is test)

    def left(self) -> str:
        """Stops all loops of the session that still run; says which, or nothing."""
        return self._stop(_running() - set(self._not_ours))

    def _stop(self, io_contexts: Iterable[IoContext]) -> str:
        left = sorted(_running() & set(io_contexts), key=lambda it: it.name)
        starters: dict[str, list[str]] = {}
        for io_context in left:
            # Not waited for: the handler that it runs may never end.
            io_context.stop()
            fixture = self._started_by.get(io_context, ("", None))[0]
            starter = f"the fixture {fixture!r}" if fixture else "a test"
            starters.setdefault(starter, []).append(repr(io_context.name))
        return "; ".join(
            f"{starter} started the loop{'s' * (len(names) > 1)} {', '.join(names)} and did not stop it"
            for starter, names in starters.items()
        )


def _running() -> set[IoContext]:
    """The loops that some thread runs now, and that somebody has to stop."""
    with _contexts_lock:
        return {it for it in _contexts.values() if not it.is_guest and it._runner is not None}  # noqa: SLF001 - its run
