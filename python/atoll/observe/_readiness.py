"""`Readiness`: whether the process is ready for work, as conditions that the application sets and `/readyz` tells."""

import math
from typing import NamedTuple

from atoll._core import ReadinessCore


class Condition(NamedTuple):
    """A condition of readiness as it is told now.

    Attributes:
        name: Its name.
        ok: Whether it holds.
        reason: Why, or why not; may be empty.
    """

    name: str
    ok: bool
    reason: str


class Readiness(ReadinessCore):
    """Named conditions that must all hold for the process to be ready. Any thread.

    Give it to an `ObserveEndpoint` and to `rpc.server(readiness=)`, to several of each if need
    be: they tell it without Python, so also while every loop is stuck and the GIL is held. Without conditions it is
    ready.

        readiness = Readiness()
        readiness.set("store", ok=False, reason="recovering")
        readiness.set("leader", ok=True, time_to_live=2.0)
    """

    def set(self, name: str, *, ok: bool, reason: str = "", time_to_live: float | None = None) -> None:
        """Says whether a condition holds, until it is said again.

        Args:
            name: Letters, digits, `-`, `_` and `.`, as in `"store"`; one of at most 100.
            ok: Whether it holds.
            reason: Why, or why not, in a line; what is beyond 500 characters is left out.
            time_to_live: Seconds after which it holds no longer unless it is set again, so that an owner that is stuck
                makes the process unready by itself; None for no end.

        Raises:
            ValueError: When the name is none, there are too many, or the time is not positive.
        """
        if time_to_live is not None and not (math.isfinite(time_to_live) and time_to_live > 0):
            raise ValueError(f"time_to_live={time_to_live!r} is not a positive number of seconds; None is no end")
        self._set(name, ok, reason, time_to_live)

    def conditions(self) -> tuple[Condition, ...]:
        """The conditions as they are now, by name."""
        return tuple(Condition(*told) for told in self._told())

    @property
    def is_ready(self) -> bool:
        """Whether all of them hold."""
        return all(condition.ok for condition in self.conditions())
