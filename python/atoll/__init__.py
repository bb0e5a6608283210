"""Atoll: every stateful module of a service on its own event loop.

The layers, each of which imports only from those below it:

    cli | testing                        the command `atoll`; what tests need
    rpc | placement | observe | store    the bridge from gRPC; which module lives where; watching; what must last
    loop                                 named single-threaded event loops
    chaos                                delays and faults on purpose, for tests
    _core                                Rust: what must run without the GIL
    errors

Importing the package changes nothing in the process.
"""

from atoll._core import BoundHandler, LoopBound, WorkGuard
from atoll.errors import AtollError, MailboxFull
from atoll.loop import (
    Distribution,
    EventStats,
    IoContext,
    IoContextPool,
    IoContextThread,
    LoopFuture,
    LoopStats,
    LoopTime,
    ModuleRef,
    PeriodicalHandle,
    PeriodicalRunner,
    PeriodicalStats,
    time_remaining,
)
from atoll.placement import IoContextPolicy, IoContextProvider, dedicated

__all__ = [
    "AtollError",
    "BoundHandler",
    "Distribution",
    "EventStats",
    "IoContext",
    "IoContextPolicy",
    "IoContextPool",
    "IoContextProvider",
    "IoContextThread",
    "LoopBound",
    "LoopFuture",
    "LoopStats",
    "LoopTime",
    "MailboxFull",
    "ModuleRef",
    "PeriodicalHandle",
    "PeriodicalRunner",
    "PeriodicalStats",
    "WorkGuard",
    "dedicated",
    "time_remaining",
]
