"""What the groups of methods share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from atoll_control.client.errors import ServerFailedError

if TYPE_CHECKING:
    from collections.abc import Sized

# Rows of a page, where a caller does not say it.
PAGE: Final = 1_000


def as_bytes(text: bytes | str) -> bytes:
    """Bytes as they are, a text in UTF-8."""
    return text.encode() if isinstance(text, str) else text


def goes_on(method: str, *, more: bool, page: Sized) -> bool:
    """Whether there is another page behind this one.

    Raises:
        ServerFailedError: the server says so, and has sent nothing after which it could begin.
    """
    if more and not len(page):
        raise no_end(method)
    return more


def no_end(method: str) -> ServerFailedError:
    """What to raise where asking for the next page would give the same one for ever."""
    message = f"{method}: the server says that there is more and goes no further: read its log, or replace it"
    return ServerFailedError(message)
