"""`Hold`: times in which nobody is declared dead, since the nodes could not all have been heard."""

from __future__ import annotations


class Hold:
    """The grace after the start, and after the server was late or the brake has let go. Each ends by itself."""

    def __init__(self, now: float) -> None:
        """Begins with the grace after the start, whose length may change: see `in_force`."""
        self._started_at = now
        self._until = now
        self._because = ""

    def extend(self, until: float, because: str) -> float:
        """No verdicts before `until`. Returns when this hold ends, which may be later."""
        if until > self._until:
            self._until, self._because = until, because
        return self._until

    def in_force(self, now: float, grace: float) -> tuple[float, str] | None:
        """Until when nobody is declared dead at `now`, and why; None if verdicts may be pronounced.

        Args:
            now: the time.
            grace: how long the grace after the start is, in seconds.
        """
        until, because = self._started_at + grace, "the server has just started"
        if self._until > until:
            until, because = self._until, self._because
        return (until, because) if now < until else None
