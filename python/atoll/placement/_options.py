"""What a policy says of a loop besides the settings of `IoContext`: who watches it, and where its thread runs."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from atoll.loop import IoContextOptions, cpu_set

LAG_PROBE_INTERVAL: Final = 0.25
STALL_THRESHOLD: Final = 0.1
_SHORTEST: Final = 0.001


class DedicatedOptions(IoContextOptions, total=False):
    """What `dedicated` takes."""

    lag_probe: bool | float
    stall_threshold: float | None
    cpu_affinity: Iterable[int] | None
    counts_for_health: bool


@dataclass(frozen=True, kw_only=True)
class PlacementOptions:
    """How a loop is placed and watched, checked.

    Attributes:
        lag_probe: Seconds between two measurements of the loop's lag; None for no probe.
        stall_threshold: Seconds that a handler may run before it is reported; None for no reports.
        cpu_affinity: The numbers of the CPUs that its thread may run on; None for all.
        counts_for_health: Whether the service is unhealthy when this loop is.
    """

    lag_probe: float | None = LAG_PROBE_INTERVAL
    stall_threshold: float | None = STALL_THRESHOLD
    cpu_affinity: frozenset[int] | None = None
    counts_for_health: bool = True


PLACEMENT_OPTIONS: Final = tuple(PlacementOptions.__dataclass_fields__)


def placement_options(given: dict[str, Any]) -> PlacementOptions:
    """The options as `dedicated` was given them, checked.

    Raises:
        ValueError: When one can't work; the message names it.
    """
    checked: dict[str, Any] = {option: _CHECKS[option](value) for option, value in given.items()}
    return PlacementOptions(**checked)


def _lag_probe(value: object) -> float | None:
    if isinstance(value, bool):
        return LAG_PROBE_INTERVAL if value else None
    return _seconds(
        value, f"lag_probe={value!r} is no interval: write True for {LAG_PROBE_INTERVAL} s, False for no probe, or"
    )


def _stall_threshold(value: object) -> float | None:
    if value is None:
        return None
    return _seconds(value, f"stall_threshold={value!r} is no duration: write None for no reports, or")


def _seconds(value: object, problem: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= _SHORTEST:
        return float(value)
    raise ValueError(f"{problem} a number of seconds, {_SHORTEST} or more")


def _cpu_affinity(value: Iterable[int] | None) -> frozenset[int] | None:
    return None if value is None else cpu_set(value)


def _counts_for_health(value: object) -> bool:
    return _flag("counts_for_health", value)


def _flag(option: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"{option}={value!r} is neither True nor False")


_CHECKS: Final[dict[str, Callable[[Any], object]]] = {
    "lag_probe": _lag_probe,
    "stall_threshold": _stall_threshold,
    "cpu_affinity": _cpu_affinity,
    "counts_for_health": _counts_for_health,
}
