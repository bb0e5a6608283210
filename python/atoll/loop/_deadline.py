"""The deadline of what runs now. It is a context variable, so it crosses to whatever a handler posts and calls."""

import contextvars
import time

from atoll.loop._io_context import IoContext

DEADLINE: contextvars.ContextVar[float | None] = contextvars.ContextVar("atoll.deadline", default=None)
"""In seconds of the loops' time (`IoContext.now()`); None without one."""


def time_remaining() -> float | None:
    """Seconds until the deadline of what runs now, not below zero; None without one.

    A gRPC call has its client's deadline; a `ModuleRef` passes its caller's on, or a nearer one. It belongs
    to the context variables of what runs.
    """
    deadline = DEADLINE.get()
    if deadline is None:
        return None
    io_context = IoContext.current_or_none()
    return max(deadline - (time.monotonic() if io_context is None else io_context.now()), 0.0)
