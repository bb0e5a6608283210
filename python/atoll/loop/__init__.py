"""The loops: `IoContext`, threads, pools, periodic functions, statistics, futures, references to what lives there."""

from atoll.loop._cpu_affinity import cpu_set
from atoll.loop._deadline import time_remaining
from atoll.loop._distribution import Distribution
from atoll.loop._future import LoopFuture
from atoll.loop._io_context import Clock, ExceptionHook, IoContext, LoopFactory
from atoll.loop._module_ref import AwaitedCall, ModuleRef, awaited_calls
from atoll.loop._options import Lane, LoopOptions
from atoll.loop._periodical_runner import CatchUp, PeriodicalHandle, PeriodicalRunner, PeriodicalStats, Schedule
from atoll.loop._pool import IoContextPool
from atoll.loop._stats import EventStats, LoopStats, LoopTime
from atoll.loop._switch_interval import gil_is_enabled, switch_interval
from atoll.loop._thread import STOP_TIMEOUT, IoContextOptions, IoContextThread, still_running

__all__ = [
    "STOP_TIMEOUT",
    "AwaitedCall",
    "CatchUp",
    "Clock",
    "Distribution",
    "EventStats",
    "ExceptionHook",
    "IoContext",
    "IoContextOptions",
    "IoContextPool",
    "IoContextThread",
    "Lane",
    "LoopFactory",
    "LoopFuture",
    "LoopOptions",
    "LoopStats",
    "LoopTime",
    "ModuleRef",
    "PeriodicalHandle",
    "PeriodicalRunner",
    "PeriodicalStats",
    "Schedule",
    "awaited_calls",
    "cpu_set",
    "gil_is_enabled",
    "still_running",
    "switch_interval",
    "time_remaining",
]
