"""What becomes of calls that wait too long on an overloaded loop, as it crosses into Rust: one frozen object."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Mode: TypeAlias = Literal["count", "shed", "off"]


@dataclass(frozen=True, kw_only=True)
class Overload:
    """When a loop is overloaded, and whether calls that have waited too long then are refused: CoDel, as Folly has it.

    The calls of a server on a loop are watched lane by lane. When even the shortest wait of an interval was longer than
    the target, the lane is overloaded, and calls that have waited twice the target are overdue: they are counted
    (`MethodStats.overdue`), and with `mode="shed"` answered RESOURCE_EXHAUSTED before Python runs, with how long to
    wait before another try in the trailer `grpc-retry-pushback-ms`. Calls of the lane `control` are never shed, and
    posts neither.

    Try it with "count" first: clients must be able to handle refusals.

    Attributes:
        mode: "count" only counts, "shed" refuses, "off" does not look.
        target: The shortest wait of an interval, in seconds, that still is no overload.
        interval: How long the shortest wait is looked for, in seconds.

    Raises:
        ValueError: When a setting can't work; the message names it.
    """

    mode: Mode = "count"
    target: float = 0.005
    interval: float = 0.1

    def __post_init__(self) -> None:
        """Checks the settings."""
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode={self.mode!r} is not one of {', '.join(map(repr, get_args(Mode)))}")
        for name in ("target", "interval"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value!r} is not a positive number of seconds")
