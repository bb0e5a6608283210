"""The settings of a loop, as they cross into Rust: one frozen object."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """What can be set for a loop.

    Attributes:
        max_queued: How many handlers each lane of the mailbox holds; a post beyond it raises `MailboxFull`.
        max_handler_names: How many handler names get statistics of their own; later ones share the name `(other)`.
        drain_budget: Seconds of handlers that may run before asyncio's own timers and tasks get their turn.
        max_dispatch_depth: How deeply `dispatch` nests before it posts instead.
        recording: Whether statistics are kept.
    """

    max_queued: int = 100_000
    max_handler_names: int = 1_000
    drain_budget: float = 0.001
    max_dispatch_depth: int = 16
    recording: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that can't work."""
        for name in ("max_queued", "max_handler_names", "max_dispatch_depth"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= 1_000_000_000:  # noqa: PLR2004 - a billion
                raise ValueError(f"{name}={value!r} is not a whole number from 1 to 1,000,000,000")
        if not (math.isfinite(self.drain_budget) and self.drain_budget > 0):
            raise ValueError(f"drain_budget={self.drain_budget!r} is not a positive number of seconds")
