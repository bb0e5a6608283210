"""Delays are loud while they are on: a log line for each handler that is delayed, and a report of how often.

The counts are kept natively, where the delays are drawn (`atoll_core::chaos`), by loop name and handler name and for
the whole process: they outlive the loops.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from atoll._core import injected_delays

_MOST_LINES: Final = 10_000

_logger = logging.getLogger("atoll.chaos")

# (loop, handler, minimum, maximum) of what has been logged; the values tell who was first.
_announced: dict[tuple[str, str, float, float], object] = {}


def announce(loop_name: str, handler: str, minimum: float, maximum: float) -> None:
    """Logs, at the level ERROR, that a handler is delayed; once for each loop, handler and range. Any thread.

    The loops call it when they first delay a handler.

    Args:
        loop_name: The loop's name.
        handler: The handler's name in statistics.
        minimum: The shortest delay in seconds.
        maximum: The longest delay in seconds.
    """
    if len(_announced) >= _MOST_LINES:
        return
    mine = object()
    if _announced.setdefault((loop_name, handler, minimum, maximum), mine) is not mine:
        return
    number = len(_announced)
    _logger.error(
        "Delaying handler %s on loop %s by %.6f to %.6f s (no. %d that is delayed)",
        handler,
        loop_name,
        minimum,
        maximum,
        number,
    )
    if number == _MOST_LINES:
        _logger.error("Further handlers are delayed without a line each; atoll.chaos.delays() counts them")


@dataclass(frozen=True, slots=True)
class DelayCount:
    """How often a handler was delayed on a loop.

    Attributes:
        loop: The loop's name.
        handler: The handler's name.
        count: How many delays.
        total: Their sum in seconds.
    """

    loop: str
    handler: str
    count: int
    total: float

    @property
    def mean(self) -> float:
        """The average delay in seconds."""
        return self.total / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class DelayReport:
    """What was delayed in this process. `str()` gives a table; of two reports, `later - earlier` is what lies between.

    Attributes:
        delays: By loop and handler; nothing that was never delayed.
    """

    delays: tuple[DelayCount, ...]

    @property
    def count(self) -> int:
        """How many delays altogether."""
        return sum(each.count for each in self.delays)

    def __iter__(self) -> Iterator[DelayCount]:
        return iter(self.delays)

    def __sub__(self, earlier: "DelayReport") -> "DelayReport":
        before = {(each.loop, each.handler): each for each in earlier.delays}
        nothing = DelayCount("", "", 0, 0.0)
        differences = []
        for each in self.delays:
            old = before.get((each.loop, each.handler), nothing)
            if each.count > old.count:
                rest = DelayCount(each.loop, each.handler, each.count - old.count, each.total - old.total)
                differences.append(rest)
        return DelayReport(tuple(differences))

    def __str__(self) -> str:
        if not self.delays:
            return "No handler was delayed."
        lines = [f"{self.count} delays of handlers:"]
        width = max(len(f"{each.loop}: {each.handler}") for each in self.delays)
        for each in self.delays:
            name = f"{each.loop}: {each.handler}"
            lines.append(f"  {name:{width}}  {each.count} times, mean {each.mean * 1000:.3f} ms")
        return "\n".join(lines)


def delays() -> DelayReport:
    """How often each handler of each loop was delayed since the process began. Any thread."""
    return DelayReport(tuple(DelayCount(*each) for each in injected_delays()))
