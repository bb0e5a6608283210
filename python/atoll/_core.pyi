"""The native half of Atoll: mailboxes, statistics and the transport."""

import contextvars
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Generic, ParamSpec, TypeVar, final

from atoll.loop._future import LoopFuture
from atoll.loop._options import LoopOptions

P = ParamSpec("P")

_Distribution = tuple[int, float, float, float, list[tuple[float, float, int]]]
_Handler = tuple[str, int, int, int, int, _Distribution, _Distribution, _Distribution]

class LoopCore:
    """The mailbox of one loop, and what feeds and drains it."""

    def __new__(cls, name: str, options: LoopOptions, owner: bool) -> LoopCore: ...  # noqa: PYI034
