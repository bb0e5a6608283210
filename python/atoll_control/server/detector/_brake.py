"""`Brake`: withholds verdicts when too many nodes seem to fail at once, or when an operator says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atoll_control.server.detector._actions import BrakeOff, BrakeOn

if TYPE_CHECKING:
    from atoll_control.server.detector._settings import DetectorSettings


@dataclass(frozen=True, slots=True)
class Freeze:
    """Why verdicts are withheld.

    Attributes:
        by: the operator, or empty for the brake itself.
        reason: a sentence with the numbers.
        since: on the detector's clock.
        until: when it ends by itself; None if only `resume` ends it.
    """

    by: str
    reason: str
    since: float
    until: float | None


class Brake:
    """Counts connected nodes and suspects among them, and holds up to two freezes: its own and an operator's.

    "At once" means: suspect at the same time. A suspect is decided `dead_after - suspect_after` after it became one, so
    that is the window, and it is longer than a heartbeat interval, over which the suspicions of one cut network are
    spread (`DetectorSettings` checks it).

    A node that has closed its last connection by itself counts neither way: its process or its operating system said
    goodbye, which a cut network can't do.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        """Begins released, without nodes."""
        self.connected = 0
        self.suspects = 0
        self.own: Freeze | None = None
        self.operators: Freeze | None = None
        self._settings = settings
        self._last_since = 0.0
        self._goes_on_until = float("-inf")

    @property
    def frozen(self) -> bool:
        """Whether verdicts are withheld."""
        return self.own is not None or self.operators is not None

    @property
    def freezes(self) -> tuple[Freeze, ...]:
        """What withholds them."""
        return tuple(freeze for freeze in (self.own, self.operators) if freeze is not None)

    @property
    def share(self) -> float:
        """The suspects' share of the connected nodes, 0 if there are none."""
        return self.suspects / self.connected if self.connected else 0.0

    @property
    def tripped(self) -> bool:
        """Whether the share is too high."""
        return self.suspects >= self._settings.brake_minimum and self.share >= self._settings.brake_share

    def engage(self, now: float) -> BrakeOn:
        """The share is too high: the brake's own freeze begins, or goes on if it ended a moment ago."""
        since = self._last_since if now < self._goes_on_until else now
        until = since + self._settings.max_freeze
        reason = (
            f"{self._counts()} are suspect at once (the brake's share is {self._settings.brake_share:.0%}, at least "
            f"{self._settings.brake_minimum}): nobody is declared dead until the share falls, an operator resumes, or "
            f"{max(0.0, until - now):.0f} s have passed"
        )
        self.own = Freeze("", reason, since, until)
        return BrakeOn("", reason, until)

    def let_go(self, now: float, *, hold_until: float) -> BrakeOff:
        """The share has fallen. If the brake trips again before `hold_until`, this freeze and its time limit go on."""
        assert self.own is not None  # noqa: S101 - only called while it is on
        self._last_since = self.own.since
        self._goes_on_until = hold_until
        reason = f"{self._counts()} are suspect, after {now - self.own.since:.1f} s: the share has fallen"
        self.own = None
        return BrakeOff("", reason, brakes_own=True, still_frozen=self.frozen)

    def freeze(self, by: str, reason: str, now: float, until: float | None) -> BrakeOn:
        """An operator's freeze begins, or replaces his last one."""
        self.operators = Freeze(by, reason, now, until)
        return BrakeOn(by, reason, until)

    def expire(self, now: float) -> list[BrakeOff]:
        """Ends the freezes whose time is over."""
        ended = []
        if self.own is not None and self.own.until is not None and now >= self.own.until:
            reason = f"max_freeze has passed ({now - self.own.since:.0f} s): what is due is decided"
            self.own = None
            ended.append(BrakeOff("", reason, brakes_own=True, still_frozen=self.frozen))
        if self.operators is not None and self.operators.until is not None and now >= self.operators.until:
            reason = f"the freeze by {self.operators.by!r} was to last {now - self.operators.since:.0f} s"
            self.operators = None
            ended.append(BrakeOff("", reason, brakes_own=False, still_frozen=self.frozen))
        return ended

    def resume(self, by: str, now: float) -> list[BrakeOff]:
        """An operator ends all freezes."""
        ended = [
            BrakeOff(
                by,
                f"resumed by {by!r} after {now - freeze.since:.1f} s",
                brakes_own=freeze is self.own,
                still_frozen=False,
            )
            for freeze in self.freezes
        ]
        self.own = self.operators = None
        return ended

    def _counts(self) -> str:
        return f"{self.suspects} of {self.connected} connected nodes ({self.share:.0%})"
