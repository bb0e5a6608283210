"""The asyncio loops that atoll's are compared with, and run on: asyncio's own, and uvloop's where it is installed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return what makes a loop, by name."""
    found: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    try:
        import uvloop  # noqa: PLC0415 -- may be missing
    except ImportError:
        return found
    return found | {"uvloop": uvloop.new_event_loop}


def missing() -> dict[str, str]:
    """Return what is not installed, and why it is thought so."""
    try:
        import uvloop  # noqa: F401, PLC0415 -- may be missing
    except ImportError as error:
        return {"uvloop": str(error)}
    return {}


def in_turn(items: list[T], number: int) -> list[T]:
    """Return the items in the order of round ``number``: each goes first in some of them."""
    start = number % len(items)
    return items[start:] + items[:start]
