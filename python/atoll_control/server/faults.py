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

from atoll import Distribution
from atoll_control.api.demo.v1 import fault_pb2, fault_pb2_grpc
from atoll_control.server.node_manager import NodeManager

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from atoll import IoContext, LoopStats, ModuleRef

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

    def install(self, servicer: object, methods: tuple[str, ...]) -> None:
        """Puts the switch before the servicer's methods. On its loop, before the servicer is added to a server."""
        for name in methods:
            handler: Callable[..., Awaitable[Any]] = getattr(type(servicer), name)
            setattr(servicer, name, types.MethodType(self._before(handler), servicer))

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
        self._lag = dict.fromkeys(self._io_contexts, 0.0)
        self._probe_sent: dict[str, float | None] = dict.fromkeys(self._io_contexts)
        self._probes: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Starts to probe how late the loops are."""
        self._probes = [asyncio.create_task(self._probe(io_context)) for io_context in self._io_contexts.values()]

    async def stop(self) -> None:
        """Stops probing, and lets every handler pass."""
        for module in self._modules.values():
            module.switch.slowness = None
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)

    async def _probe(self, io_context: IoContext) -> None:
        while True:
            sent = io_context.now()
            self._probe_sent[io_context.name] = sent
            ran = await io_context.submit(io_context.now, name="demo.lag_probe")
            self._lag[io_context.name] = ran - sent
            self._probe_sent[io_context.name] = None
            await asyncio.sleep(PROBE_INTERVAL)

    def _lag_now(self, io_context: IoContext) -> float:
        sent = self._probe_sent[io_context.name]
        waiting = 0.0 if sent is None else io_context.now() - sent
        return max(self._lag[io_context.name], waiting)

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
        seconds = request.block.seconds + request.block.nanos / 1e9
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
        earlier = {} if before is None else {handler.name: handler for handler in before.handlers}
        handlers: list[fault_pb2.HandlerStats] = []
        queue_times: list[Distribution] = []
        execution_times: list[Distribution] = []
        for handler in stats.handlers:
            past = earlier.get(handler.name)
            queue_times.append(_since(handler.queue_time, past.queue_time if past else None))
            execution_times.append(_since(handler.execution_time, past.execution_time if past else None))
            handlers.append(
                fault_pb2.HandlerStats(
                    name=handler.name,
                    total=handler.total - (past.total if past else 0),
                    errors=handler.errors - (past.errors if past else 0),
                    active=handler.active,
                    queue_time=_spread(queue_times[-1]),
                    execution_time=_spread(execution_times[-1]),
                )
            )
        return fault_pb2.LoopStats(
            name=stats.name,
            modules=sorted(name for name, module in self._modules.items() if module.io_context is io_context),
            queued=sum(stats.queued.values()),
            total=sum(handler.total for handler in handlers),
            lag=self._lag_now(io_context),
            queue_time=_spread(Distribution.merged(queue_times)),
            execution_time=_spread(Distribution.merged(execution_times)),
            handlers=handlers,
        )


def _since(now: Distribution, before: Distribution | None) -> Distribution:
    """What was added to a distribution; its extremes as exact as the buckets are."""
    if before is None or before.count == 0:
        return now
    earlier = {(start, end): count for start, end, count in before.buckets}
    buckets = tuple(
        (start, end, count - earlier.get((start, end), 0))
        for start, end, count in now.buckets
        if count > earlier.get((start, end), 0)
    )
    if not buckets:
        return Distribution()
    return Distribution(
        count=now.count - before.count,
        sum=now.sum - before.sum,
        min=max(now.min, buckets[0][0]),
        max=min(now.max, buckets[-1][1]),
        buckets=buckets,
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
