"""What loops did and do, for people and for what collects metrics. Nothing here runs on a module's loop.

The metrics have one table, `docs/metrics.md`, wherever they go.
"""

from atoll.observe._endpoint import ObserveEndpoint, endpoint_from_environment
from atoll.observe._gil_gauge import GilGauge
from atoll.observe._lag_probe import LagProbe
from atoll.observe._monitor import LoopHealth, LoopMonitor, MonitorOptions, Stall
from atoll.observe._opentelemetry import instrument_opentelemetry
from atoll.observe._prometheus import PrometheusCollector, prometheus_text
from atoll.observe._readiness import Condition, Readiness
from atoll.observe._stats_logger import StatsLogger
from atoll.observe._systemd import SystemdNotifier
from atoll.observe._waiting import WaitingCycle

__all__ = [
    "Condition",
    "GilGauge",
    "LagProbe",
    "LoopHealth",
    "LoopMonitor",
    "MonitorOptions",
    "ObserveEndpoint",
    "PrometheusCollector",
    "Readiness",
    "Stall",
    "StatsLogger",
    "SystemdNotifier",
    "WaitingCycle",
    "endpoint_from_environment",
    "instrument_opentelemetry",
    "prometheus_text",
]
