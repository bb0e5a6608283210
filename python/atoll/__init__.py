"""Atoll: every stateful module of a service on its own event loop.

The layers, each of which imports only from those below it:

    cli                the command `atoll`
    rpc | placement    the bridge from gRPC; which module lives where
    loop               named single-threaded event loops
    _core              Rust: what must run without the GIL
    errors

Importing the package changes nothing in the process.
"""

from atoll._core import BoundHandler, LoopBound, WorkGuard
from atoll.errors import AtollError, MailboxFull
from atoll.loop import Distribution, HandlerStats, IoContext, IoContextThread, LoopFuture, LoopStats, ModuleRef
from atoll.placement import IoContextPolicy, IoContextProvider, dedicated

__all__ = [
    "AtollError",
    "BoundHandler",
    "Distribution",
    "HandlerStats",
    "IoContext",
    "IoContextPolicy",
    "IoContextProvider",
    "IoContextThread",
    "LoopBound",
    "LoopFuture",
    "LoopStats",
    "MailboxFull",
    "ModuleRef",
    "WorkGuard",
    "dedicated",
]
