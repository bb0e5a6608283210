"""What `atoll demo` needs of a server: a module made slow on purpose, and a view of the loops. Off unless asked for.

`FaultInjector` lives on the main loop, which has nothing else to do, and so answers while a module is stuck. It tells
the modules' handlers to be slow through one reference per module, written by the main loop and read by the module's.
"""

from __future__ import annotations

import asyncio
import functools
import platform
import sys
import sysconfig
import time  # noqa: TID251 - to keep a loop busy on purpose
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
import structlog

from atoll.observe import LagProbe
from atoll_control.api import times
from atoll_control.api.demo.v1 import fault_pb2, fault_pb2_grpc
from atoll_control.server.access import methods_of
from atoll_control.server.node_manager import NodeManager

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from atoll import Distribution, IoContext, LoopStats, ModuleRef

MAX_BLOCK_SECONDS: Final = 5.0
PROBE_INTERVAL: Final = 0.1
CALIBRATION_STEPS: Final = 1_000_000

_log = structlog.get_logger("atoll_control.faults")


@dataclass(frozen=True, slots=True)
class Slowness:
    """How a handler keeps its loop busy: calling it returns after about `seconds`."""

    kind: fault_pb2.SlowKind.ValueType
    seconds: float
    steps: int = 0

    def __call__(self) -> None:
        """Keeps the calling thread busy."""
        if self.kind == fault_pb2.SLOW_KIND_SLEEP:
            time.sleep(self.seconds)
        elif self.kind == fault_pb2.SLOW_KIND_CPU:
            end = time.monotonic() + self.seconds
            while time.monotonic() < end:
                pass
        elif self.kind == fault_pb2.SLOW_KIND_GIL:
            # One call into C that never looks at what other threads want.
            sum(range(self.steps))

    @classmethod
    def calibrated(cls, kind: fault_pb2.SlowKind.ValueType, seconds: float) -> Slowness:
        """Measures, for the kind that can't look at a clock meanwhile, how much work takes `seconds`."""
        steps = 0
        if kind == fault_pb2.SLOW_KIND_GIL:
            best = min(_timed(CALIBRATION_STEPS) for _ in range(3))
            steps = int(CALIBRATION_STEPS * seconds / best)
        return cls(kind, seconds, steps)


def _timed(steps: int) -> float:
    begin = time.monotonic()
    sum(range(steps))
    return max(time.monotonic() - begin, 1e-6)


class SlowSwitch:
    """Stands before the handlers of one module and lets them pass at once, or slowly."""

    def __init__(self) -> None:
        """Lets everything pass at once."""
        self.slowness: Slowness | None = None

    def install(self, servicer: object) -> None:
        """Puts the switch before the servicer's methods. On its loop, before the servicer is added to a server."""
        for method in methods_of(servicer):
            handler: Callable[..., Awaitable[Any]] = getattr(type(servicer), method.name)
            setattr(servicer, method.name, types.MethodType(self._before(handler), servicer))

    def _before(self, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(handler)
        async def slowed(module: object, request: object, context: object) -> object:
            if (slowness := self.slowness) is not None:
                slowness()
            return await handler(module, request, context)

        return slowed


@dataclass(frozen=True)
class WatchedModule:
    """A module that the demo may slow down.

    Attributes:
        io_context: the loop that it lives on.
        switch: stands before its handlers.
    """

    io_context: IoContext
    switch: SlowSwitch


class FaultInjector(fault_pb2_grpc.FaultServiceServicer):
    """The servicer of `FaultService`."""

    def __init__(self, modules: Mapping[str, WatchedModule], nodes: ModuleRef[NodeManager]) -> None:
        """Takes what there is to slow down and to watch.

        Args:
            modules: by the name of their class.
            nodes: asked for the states of the nodes.
        """
        self._modules = modules
        self._nodes = nodes
        self._io_contexts = {module.io_context.name: module.io_context for module in modules.values()}
        self._before: dict[str, LoopStats] = {}
        self._lags: dict[str, LagProbe] = {}

    def start(self) -> None:
        """Starts to measure how late the loops are."""
        self._lags = {name: LagProbe(io_context, PROBE_INTERVAL) for name, io_context in self._io_contexts.items()}

    def stop(self) -> None:
        """Stops measuring, and lets every handler pass."""
        for module in self._modules.values():
            module.switch.slowness = None
        for probe in self._lags.values():
            probe.stop()

    # -- FaultService --------------------------------------------------------------------------------------------------

    async def SetSlow(
        self,
        request: fault_pb2.SetSlowRequest,
        context: grpc.aio.ServicerContext[fault_pb2.SetSlowRequest, fault_pb2.SetSlowResponse],
    ) -> fault_pb2.SetSlowResponse:
        """Makes a module slow, or fast again."""
        module = self._modules.get(request.module)
        if module is None:
            known = ", ".join(sorted(self._modules))
            problem = f"module: this server has {known}; got {request.module!r}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        if request.kind not in fault_pb2.SlowKind.values() or request.kind == fault_pb2.SLOW_KIND_UNSPECIFIED:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"kind: unknown or missing, got {request.kind}")
        seconds = times.seconds(request.block)
        if request.kind == fault_pb2.SLOW_KIND_OFF:
            module.switch.slowness = None
        elif 0 < seconds <= MAX_BLOCK_SECONDS:
            module.switch.slowness = Slowness.calibrated(request.kind, seconds)
        else:
            problem = f"block: must be more than 0 and at most {MAX_BLOCK_SECONDS:g} s, got {seconds:g} s"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        self._before = {name: io_context.stats() for name, io_context in self._io_contexts.items()}
        kind = fault_pb2.SlowKind.Name(request.kind).removeprefix("SLOW_KIND_").lower()
        _log.warning("slowness_set", module=request.module, kind=kind, seconds=seconds)
        return fault_pb2.SetSlowResponse(loop=module.io_context.name)

    async def GetStats(
        self,
        request: fault_pb2.GetStatsRequest,  # noqa: ARG002 - the signature is gRPC's
        context: grpc.aio.ServicerContext[fault_pb2.GetStatsRequest, fault_pb2.GetStatsResponse],  # noqa: ARG002
    ) -> fault_pb2.GetStatsResponse:
        """Shows what the loops do."""
        try:
            nodes = await asyncio.wait_for(self._nodes.call(NodeManager.count_by_state), timeout=PROBE_INTERVAL)
        except TimeoutError:
            nodes = {}
        return fault_pb2.GetStatsResponse(
            loops=[self._describe(io_context) for io_context in self._io_contexts.values()],
            gil_enabled=_gil_enabled(),
            python_version=platform.python_version(),
            nodes=nodes,
        )

    def _describe(self, io_context: IoContext) -> fault_pb2.LoopStats:
        stats = io_context.stats()
        before = self._before.get(io_context.name)
        window = stats if before is None else stats - before
        lag = self._lags.get(io_context.name)
        return fault_pb2.LoopStats(
            name=stats.name,
            modules=sorted(name for name, module in self._modules.items() if module.io_context is io_context),
            queued=sum(stats.queued.values()),
            total=window.total,
            lag=0.0 if lag is None else lag.lag,
            queue_time=_spread(window.queue_time),
            execution_time=_spread(window.execution_time),
            handlers=[
                fault_pb2.HandlerStats(
                    name=handler.name,
                    total=handler.total,
                    errors=handler.errors,
                    active=handler.active,
                    queue_time=_spread(handler.queue_time),
                    execution_time=_spread(handler.execution_time),
                )
                for handler in window.handlers
            ],
        )


def _spread(distribution: Distribution) -> fault_pb2.Spread:
    return fault_pb2.Spread(
        count=distribution.count,
        mean=distribution.mean,
        p50=distribution.p50,
        p99=distribution.p99,
        max=distribution.max,
    )


def _gil_enabled() -> bool:
    is_enabled: Callable[[], bool] | None = getattr(sys, "_is_gil_enabled", None)
    return is_enabled() if is_enabled is not None else not sysconfig.get_config_var("Py_GIL_DISABLED")
