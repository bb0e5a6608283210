"""What loops did and do, for people and for what collects metrics. Nothing here runs on a module's loop."""

from atoll.observe._stats_logger import StatsLogger

__all__ = [
    "StatsLogger",
]
