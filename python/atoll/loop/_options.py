"""The settings of a loop, as they cross into Rust: one frozen object."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Lane: TypeAlias = Literal["control", "normal", "bulk"]

_LANES: tuple[Lane, ...] = get_args(Lane)
_MOST = 1_000_000_000
_DEFAULT_QUEUED = 100_000
_LONGEST_WAKE_INTERVAL = 1.0
_DEFAULT_WEIGHTS: dict[Lane, int] = {"control": 64, "normal": 32, "bulk": 8}


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """What can be set for a loop.

    Attributes:
        max_queued: How many handlers each lane of the mailbox holds, or a mapping of lanes to how many each of them
            holds; a post beyond it raises `MailboxFull`.
        lane_weights: How many handlers of a lane run before the next lane has its turn, for the lanes that are named.
        max_delayed: How many posts with a delay may wait for their time; one more raises `MailboxFull`.
        max_handler_names: How many handler names get statistics of their own; later ones share the name `(other)`.
        drain_budget: Seconds of handlers that may run before asyncio's own timers and tasks get their turn.
        wake_interval: Seconds for which posts do not wake the loop after it has run some, so that what comes meanwhile
            is run together; with 0 they always do.
        max_dispatch_depth: How deeply `dispatch` nests before it posts instead.
        recording: Whether statistics are kept.
    """

    max_queued: int | Mapping[Lane, int] = _DEFAULT_QUEUED
    lane_weights: Mapping[Lane, int] | None = None
    max_delayed: int = 1_000_000
    max_handler_names: int = 1_000
    drain_budget: float = 0.001
    wake_interval: float = 0.0
    max_dispatch_depth: int = 16
    recording: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that can't work."""
        for name in ("max_delayed", "max_handler_names", "max_dispatch_depth"):
            _check_count(name, getattr(self, name))
        if isinstance(self.max_queued, Mapping):
            _check_lanes("max_queued", self.max_queued)
        else:
            _check_count("max_queued", self.max_queued)
        if self.lane_weights is not None:
            _check_lanes("lane_weights", self.lane_weights)
        if not (math.isfinite(self.drain_budget) and self.drain_budget > 0):
            raise ValueError(f"drain_budget={self.drain_budget!r} is not a positive number of seconds")
        if not 0 <= self.wake_interval <= _LONGEST_WAKE_INTERVAL:
            raise ValueError(
                f"wake_interval={self.wake_interval!r} is not a number of seconds from 0 to {_LONGEST_WAKE_INTERVAL}"
            )

    @property
    def limits(self) -> list[int]:
        """How many handlers each lane holds, the most urgent first."""
        if isinstance(self.max_queued, Mapping):
            return [self.max_queued.get(lane, _DEFAULT_QUEUED) for lane in _LANES]
        return [self.max_queued] * len(_LANES)

    @property
    def weights(self) -> list[int]:
        """How many handlers of each lane run before the next one has its turn, the most urgent first."""
        return list((_DEFAULT_WEIGHTS | dict(self.lane_weights or {})).values())


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or not 1 <= value <= _MOST:
        raise ValueError(f"{name}={value!r} is not a whole number from 1 to {_MOST:,}")


def _check_lanes(name: str, values: Mapping[Lane, int]) -> None:
    for lane, value in values.items():
        if lane not in _LANES:
            raise ValueError(f"{name} names the lane {lane!r}: it is one of 'control', 'normal' and 'bulk'")
        _check_count(f"{name}[{lane!r}]", value)
