"""What became of one case of a suite."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """One case that was run."""

    name: str
    failure: str = ""
    """What the suite said; empty when the case passed."""
    seconds: float | None = None
    """How long it took, where the suite runs cases one by one."""


class UnavailableError(Exception):
    """The machine lacks what a suite needs; the message names it and the remedy. Nothing can be said of the cases."""


class SuiteError(Exception):
    """A suite did not work, or a server did not start; the message says why."""
