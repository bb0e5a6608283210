"""`HandlerErrors`: what handlers raised in a test, which is an error of the test unless it expected it.

Any thread adds to it; the test's thread takes from it. The list's single operations are atomic.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from atoll.loop import IoContext

E = TypeVar("E", bound=BaseException)


@dataclass(frozen=True)
class HandlerError:
    """An exception that left a handler.

    Attributes:
        loop: The loop's name.
        handler: The handler's name.
        exception: What it raised.
    """

    loop: str
    handler: str
    exception: BaseException


class HandlerErrors:
    """What handlers raised on the loops of a test's fixtures, in the order in which they did.

    The fixture `handler_errors` gives it, and its `hook` can be the `exception_hook` of any further loop. What the test
    has not taken at its end fails it.
    """

    def __init__(self) -> None:
        self._errors: list[HandlerError] = []

    def hook(self, io_context: IoContext, handler: str, exception: BaseException) -> None:
        """The exception hook of a loop. Any thread."""
        self._errors.append(HandlerError(io_context.name, handler, exception))

    def take(self, kind: type[E], match: str = "") -> E:
        """Takes out the first exception of the class `kind` whose text the regular expression `match` finds.

        Wait until the handler has run before asking: `clock.advance()`, `io_context.run()`, or a future's `result()`.

        Raises:
            AssertionError: When no handler has raised one.
        """
        for error in self._errors:
            if isinstance(error.exception, kind) and re.search(match, str(error.exception)):
                self._errors.remove(error)
                return error.exception
        wanted = f"{kind.__name__} with {match!r} in its text" if match else kind.__name__
        raised = ", ".join(f"{error.handler}: {error.exception!r}" for error in self._errors) or "nothing"
        raise AssertionError(f"no handler raised {wanted}; what they raised: {raised}")

    def check(self) -> None:
        """Raises what has not been taken.

        Raises:
            BaseExceptionGroup: The exceptions, each with a note of the handler and the loop.
        """
        left, self._errors = self._errors, []
        for error in left:
            error.exception.add_note(f"raised by the handler {error.handler} on the loop {error.loop!r}")
        if left:
            raise BaseExceptionGroup(
                "handlers raised what the test did not expect; take what it does: handler_errors.take(ValueError)",
                [error.exception for error in left],
            )

    def __len__(self) -> int:
        return len(self._errors)

    def __iter__(self) -> Iterator[HandlerError]:
        return iter(self._errors.copy())
