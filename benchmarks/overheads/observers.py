"""A loop with all observers there are against the same loop without: monitor, lag probe, gauge of waits for the GIL.

A turn has to be longer than the longest interval, that of the lag probe, or the observers would be there without doing
anything. Their own threads are counted, as they take CPU time, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from atoll.observe import GilGauge, LagProbe, LoopMonitor, MonitorOptions
from benchmarks.overheads.pumped import PumpedLoop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.overheads.pumped import Cost

STALL_THRESHOLD: Final = 0.01
PROBE_INTERVAL: Final = 0.25

_WARM_UP_SECONDS: Final = 0.1


def rounds(count: int, seconds: float) -> Iterator[dict[str, float]]:
    """Yield ``watched`` and ``unwatched``, each as ``.cpu`` and ``.wall``, and the ``stalls`` that the monitor saw."""
    loop = PumpedLoop("observed")
    loop.cost(_WARM_UP_SECONDS)
    for number in range(count):
        if number % 2:
            (watched, stalls), unwatched = _watched(loop, seconds), loop.cost(seconds)
        else:
            unwatched, (watched, stalls) = loop.cost(seconds), _watched(loop, seconds)
        yield {
            "watched.cpu": watched.cpu,
            "watched.wall": watched.wall,
            "unwatched.cpu": unwatched.cpu,
            "unwatched.wall": unwatched.wall,
            "stalls": stalls,
        }
    loop.close()


def _watched(loop: PumpedLoop, seconds: float) -> tuple[Cost, int]:
    io_context = loop.io_context
    options = MonitorOptions(stall_threshold=STALL_THRESHOLD, stall_reports_per_minute=0)
    with LoopMonitor(options) as monitor, LagProbe(io_context, PROBE_INTERVAL), GilGauge():
        monitor.watch(io_context)
        cost = loop.cost(seconds)
        return cost, sum(health.stalls for health in monitor.loops())
