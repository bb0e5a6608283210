"""What a policy says of a loop besides the settings of `IoContext`: who watches it, and where its thread runs."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from atoll.loop import IoContextOptions, LoopOptions, cpu_set

LAG_PROBE_INTERVAL: Final = 0.25
STALL_THRESHOLD: Final = 0.1
_SHORTEST: Final = 0.001


class DedicatedOptions(IoContextOptions, total=False):
    """What `dedicated` takes."""

    lag_probe: bool | float
    stall_threshold: float | None
    cpu_affinity: Iterable[int] | None
    counts_for_health: bool
    checked: bool


@dataclass(frozen=True, kw_only=True)
class PlacementOptions:
    """How a loop is placed and watched, checked.

    Attributes:
        lag_probe: Seconds between two measurements of the loop's lag; None for no probe.
        stall_threshold: Seconds that a handler may run before it is reported; None for no reports.
        cpu_affinity: The numbers of the CPUs that its thread may run on; None for all.
        counts_for_health: Whether the service is unhealthy when this loop is.
        checked: Whether its modules refuse to be touched on other loops.
    """

    lag_probe: float | None = LAG_PROBE_INTERVAL
    stall_threshold: float | None = STALL_THRESHOLD
    cpu_affinity: frozenset[int] | None = None
    counts_for_health: bool = True
    checked: bool = True


def checked_options(given: DedicatedOptions) -> tuple[IoContextOptions, PlacementOptions]:
    """What was given, apart: the settings of `IoContext`, and the rest.

    Raises:
        ValueError: When an option is unknown or can't work; the message names it.
    """
    settings: dict[str, Any] = {}
    placement: dict[str, Any] = {}
    for option, value in given.items():
        if option in _PLACEMENT_OPTIONS:
            placement[option] = _PLACEMENT_OPTIONS[option](value)
        elif option in _SETTINGS:
            _SETTINGS[option](option, value)
            settings[option] = value
        else:
            options = sorted({*_SETTINGS, *_PLACEMENT_OPTIONS})
            close = difflib.get_close_matches(option, options, n=1)
            remedy = f"did you mean {close[0]}=?" if close else f"the options are {', '.join(options)}"
            raise ValueError(f"a loop has no option {option!r}: {remedy}")
    return cast("IoContextOptions", settings), PlacementOptions(**placement)


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


def _flag(option: str) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise ValueError(f"{option}={value!r} is neither True nor False")

    return check


def _check_callable(option: str, value: object) -> None:
    if not (value is None or callable(value)):
        raise ValueError(f"{option}={value!r} can't be called: pass a function")


def _check_clock(option: str, value: object) -> None:
    if not (value is None or callable(getattr(value, "new_event_loop", None))):
        raise ValueError(f"{option}={value!r} is no clock: pass one, such as atoll.testing.ManualClock()")


def _check_seed(option: str, value: object) -> None:
    if not (value is None or isinstance(value, int)):
        raise ValueError(f"{option}={value!r} is not a whole number")


def _check_setting(option: str, value: object) -> None:
    """Has the settings that cross into Rust check themselves."""
    if option == "lane_weights" and not (value is None or isinstance(value, Mapping)):
        raise ValueError(f"{option}={value!r} is no mapping of lanes, such as {{'bulk': 4}}")
    setting: dict[str, Any] = {option: value}
    try:
        LoopOptions(**setting)
    except TypeError as error:
        raise ValueError(f"{option}={value!r} {error}") from None


_SETTINGS: Final[dict[str, Callable[[str, Any], None]]] = {
    **dict.fromkeys(IoContextOptions.__annotations__, _check_setting),
    "loop_factory": _check_callable,
    "exception_hook": _check_callable,
    "clock": _check_clock,
    "seed": _check_seed,
}
_PLACEMENT_OPTIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "lag_probe": _lag_probe,
    "stall_threshold": _stall_threshold,
    "cpu_affinity": _cpu_affinity,
    "counts_for_health": _flag("counts_for_health"),
    "checked": _flag("checked"),
}
