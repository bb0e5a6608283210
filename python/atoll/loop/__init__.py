"""The loops: `IoContext`, its statistics, its futures."""

from atoll.loop._future import LoopFuture
from atoll.loop._io_context import ExceptionHook, IoContext, Lane, LoopFactory
from atoll.loop._options import LoopOptions
from atoll.loop._stats import Distribution, HandlerStats, LoopStats

__all__ = [
    "Distribution",
    "ExceptionHook",
    "HandlerStats",
    "IoContext",
    "Lane",
    "LoopFactory",
    "LoopFuture",
    "LoopOptions",
    "LoopStats",
]
