"""Runs the demo from start to verdict."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time  # noqa: TID251 - a client program: it lives outside any loop of Atoll's
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from atoll_control.api import times
from atoll_control.api.demo.v1 import fault_pb2, fault_pb2_grpc
from atoll_control.api.v1 import node_pb2, node_pb2_grpc
from atoll_control.demo.observation import Observation
from atoll_control.demo.processes import ChildFailedError, ServerProcess, WorkerProcess, log_path
from atoll_control.demo.samples import Half
from atoll_control.demo.verdict import Facts, Verdict, duration, judge
from atoll_control.demo.view import Snapshot, View
from atoll_control.demo.worker import Task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from atoll_control.demo.node import Report

TICK: Final = 0.25
STATS_EVERY_TICKS: Final = 4
SETTLE: Final = 1.0
JOIN_TIMEOUT: Final = 30.0
CALL_TIMEOUT: Final = 10.0
REACH_TIMEOUT: Final = 5.0
SHOWN_ERRORS: Final = 5
PAGE: Final = 1000

KINDS: Final = {
    "sleep": fault_pb2.SLOW_KIND_SLEEP,
    "cpu": fault_pb2.SLOW_KIND_CPU,
    "gil": fault_pb2.SLOW_KIND_GIL,
}


class DemoError(Exception):
    """The demo could not run to its end. The message says why."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What `atoll demo` is told. Times in seconds."""

    nodes: int = 200
    processes: int = 4
    seconds: float = 16.0
    slow_module: str = "KvManager"
    slow_kind: str = "sleep"
    block: float = 0.2
    server: str | None = None
    one_loop: bool = False
    network_threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    facts: Facts
    verdict: Verdict
    loops: tuple[fault_pb2.LoopStats, ...]


@dataclass
class Demo:
    """One run."""

    settings: DemoSettings
    view: View
    run_id: str = field(default_factory=lambda: os.urandom(4).hex())
    halves: dict[str, Half] = field(default_factory=lambda: {"healthy": Half()})
    registered: int = 0
    registered_again: int = 0
    wrong_reads: int = 0
    errors: list[str] = field(default_factory=list)
    slow_since: float = float("inf")
    slow_until: float = float("inf")
    interval: float = 1.0
    keep_log: bool = True
    snapshot: Snapshot = field(default_factory=Snapshot)
    measuring: bool = False
    workers: list[WorkerProcess] = field(default_factory=list)
    server: ServerProcess | None = None
    observation: Observation | None = None

    async def run(self) -> Outcome:
        """Runs the demo.

        Raises:
            DemoError: it could not run to its end.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                return await self._run(stack)
            except ChildFailedError as error:
                raise DemoError(str(error)) from error
            except grpc.aio.AioRpcError as error:
                raise DemoError(f"the server answered {error.code().name}: {error.details()}") from error

    async def _run(self, stack: contextlib.AsyncExitStack) -> Outcome:
        settings = self.settings
        address = settings.server or await self._start_server(stack)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        nodes = node_pb2_grpc.NodeServiceStub(channel)
        faults = fault_pb2_grpc.FaultServiceStub(channel)
        await self._reach(nodes, address)
        controls = await self._stats(faults)
        self._announce(address, controls is not None)
        await self._start_workers(stack, address)
        await self._join(faults)
        # Connections warm up, first calls are paid for.
        await self._watch("settling", SETTLE, faults)

        self.measuring = True
        half = settings.seconds / 2
        await self._watch("undisturbed", half, faults)
        self.halves["slow"] = Half()
        self.slow_since = time.monotonic()
        slow_module = settings.slow_module if controls is not None else None
        if controls is not None:
            await self._set_slow(faults, KINDS[settings.slow_kind])
        try:
            phase = f"{slow_module} slow ({settings.slow_kind})" if slow_module else "undisturbed"
            await self._watch(phase, half - (time.monotonic() - self.slow_since), faults)
            self.slow_until = time.monotonic()
            alive = await self._count_alive(nodes)
            stats = await self._stats(faults)
        finally:
            if controls is not None:
                await self._set_slow(faults, fault_pb2.SLOW_KIND_OFF)
        self.snapshot.phase = "leaving"
        self.view.update(self.snapshot)
        await asyncio.gather(*(worker.leave() for worker in self.workers))

        facts = Facts(
            nodes=settings.nodes,
            nodes_alive=alive,
            registered_again=self.registered_again,
            wrong_reads=self.wrong_reads,
            heartbeats={name: calls.heartbeats.summary() for name, calls in self.halves.items()},
            kv={name: calls.kv.summary() for name, calls in self.halves.items()},
            heartbeats_due=int(settings.nodes * (self.slow_until - self.slow_since) / self.interval),
            slow_module=slow_module,
            slow_kind=settings.slow_kind,
            block=settings.block,
            gil_enabled=stats.gil_enabled if stats is not None else True,
            one_loop=settings.one_loop,
            stalls=None if self.observation is None else tuple(self.observation.seen.values()),
        )
        for error, count in Counter(self.errors).most_common(SHOWN_ERRORS):
            self.view.say(f"error: {error}" + (f" ({count} times)" if count > 1 else ""))
        verdict = judge(facts)
        self.keep_log = not verdict.held
        return Outcome(facts, verdict, tuple(stats.loops) if stats is not None else ())

    # -- steps ---------------------------------------------------------------------------------------------------------

    async def _start_server(self, stack: contextlib.AsyncExitStack) -> str:
        path = log_path(self.run_id)
        log = stack.enter_context(path.open("w"))
        self.server = ServerProcess(log)
        stack.push_async_callback(self._stop_server, self.server, path)
        arguments = ["--one-loop"] if self.settings.one_loop else []
        if self.settings.network_threads is not None:
            arguments += ["--network-threads", str(self.settings.network_threads)]
        self.observation = Observation(self.run_id)
        address = await self.server.start(*arguments, environment=self.observation.environment)
        self.view.say(f"server: a process of its own on {address}; its log, kept unless all goes well, is {path}")
        self.view.say(f"while it runs, another terminal can watch its loops: atoll top {self.observation.address}")
        return address

    async def _stop_server(self, server: ServerProcess, path: Path) -> None:
        code = await server.stop()
        if code and self.registered:
            self.view.say(f"the server ended with exit code {code}; see {path}")
        elif not self.keep_log:
            path.unlink(missing_ok=True)  # noqa: ASYNC240 - one call at the very end

    async def _reach(self, nodes: node_pb2_grpc.NodeServiceAsyncStub, address: str) -> None:
        try:
            await nodes.ListNodes(node_pb2.ListNodesRequest(limit=1), timeout=REACH_TIMEOUT, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise DemoError(f"no server answers at {address}: {error.code().name}: {error.details()}") from error

    def _announce(self, address: str, controllable: bool) -> None:  # noqa: FBT001 - private
        settings = self.settings
        self.view.say(
            f"{settings.nodes} nodes in {settings.processes} processes join {address} with stock grpcio: each sends a "
            "heartbeat, a put and a get per heartbeat interval"
        )
        if controllable:
            self.view.say(
                f"{settings.seconds / 2:g} s undisturbed, then {settings.seconds / 2:g} s in which each call of "
                f"{settings.slow_module} blocks for {duration(settings.block)} ({settings.slow_kind})"
            )
        else:
            self.view.say("the server has no demo controls (atollctl serve --demo-controls): nothing will be made slow")

    async def _start_workers(self, stack: contextlib.AsyncExitStack, address: str) -> None:
        settings = self.settings
        self.workers = [WorkerProcess(self._on_report) for _ in range(settings.processes)]
        # One callback for all: they stop together, not one after the other.
        stack.push_async_callback(self._stop_workers)
        for number, worker in enumerate(self.workers):
            await worker.start(Task(address, self.run_id, number, settings.processes, settings.nodes))

    async def _stop_workers(self) -> None:
        await asyncio.gather(*(worker.stop() for worker in self.workers))

    async def _join(self, faults: fault_pb2_grpc.FaultServiceAsyncStub) -> None:
        begin = time.monotonic()
        async for _ in self._ticks(JOIN_TIMEOUT, faults):
            self.snapshot.phase = "registering"
            self.snapshot.done, self.snapshot.total = time.monotonic() - begin, JOIN_TIMEOUT
            self.view.update(self.snapshot)
            if self.registered >= self.settings.nodes:
                return
        problem = f": {self.errors[-1]}" if self.errors else ""
        raise DemoError(
            f"only {self.registered} of {self.settings.nodes} nodes registered within {JOIN_TIMEOUT:g} s{problem}"
        )

    async def _watch(self, phase: str, seconds: float, faults: fault_pb2_grpc.FaultServiceAsyncStub) -> None:
        begin = time.monotonic()
        async for _ in self._ticks(seconds, faults):
            self.snapshot.phase = phase
            self.snapshot.done, self.snapshot.total = min(seconds, time.monotonic() - begin), seconds
            self.snapshot.heartbeats = {name: half.heartbeats.summary() for name, half in self.halves.items()}
            self.snapshot.kv = {name: half.kv.summary() for name, half in self.halves.items()}
            self.view.update(self.snapshot)

    async def _ticks(self, seconds: float, faults: fault_pb2_grpc.FaultServiceAsyncStub) -> AsyncIterator[None]:
        """Yields every now and then until the time is over; looks after the children and the statistics meanwhile."""
        end = time.monotonic() + seconds
        tick = 0
        while (now := time.monotonic()) < end:
            self._check_children()
            if tick % STATS_EVERY_TICKS == 0 and (stats := await self._stats(faults)) is not None:
                self.snapshot.loops = stats.loops
                self.snapshot.nodes = stats.nodes or self.snapshot.nodes
            if self.observation is not None:
                await self.observation.look()
                self.snapshot.stuck = self.observation.stuck_now
            tick += 1
            yield
            await asyncio.sleep(min(TICK, max(0.0, end - now)))

    def _check_children(self) -> None:
        for worker in self.workers:
            worker.check()
            if worker.ended:
                raise DemoError("a process of nodes ended too early" + (f": {self.errors[-1]}" if self.errors else ""))
        if self.server is not None and self.server.ended:
            raise DemoError(f"the server ended; see {log_path(self.run_id)}")

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def _stats(self, faults: fault_pb2_grpc.FaultServiceAsyncStub) -> fault_pb2.GetStatsResponse | None:
        """What the loops do, or None if the server doesn't tell."""
        try:
            return await faults.GetStats(fault_pb2.GetStatsRequest(), timeout=CALL_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise

    async def _set_slow(self, faults: fault_pb2_grpc.FaultServiceAsyncStub, kind: fault_pb2.SlowKind.ValueType) -> None:
        block = times.duration(self.settings.block)
        request = fault_pb2.SetSlowRequest(module=self.settings.slow_module, kind=kind, block=block)
        await faults.SetSlow(request, timeout=CALL_TIMEOUT)

    async def _count_alive(self, nodes: node_pb2_grpc.NodeServiceAsyncStub) -> int:
        """How many nodes of this run the server holds for alive."""
        prefix = f"demo-{self.run_id}-"
        request = node_pb2.ListNodesRequest(limit=PAGE, start_after=prefix, states=[node_pb2.NODE_STATE_ALIVE])
        alive = 0
        while True:
            try:
                page = await nodes.ListNodes(request, timeout=CALL_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                self.errors.append(f"could not list the nodes: {error.code().name}: {error.details()}")
                return 0
            alive += sum(node.node_id.startswith(prefix) for node in page.nodes)
            if not page.more or not page.nodes[-1].node_id.startswith(prefix):
                return alive
            request.start_after = page.nodes[-1].node_id

    def _on_report(self, report: Report) -> None:
        self.interval = report.heartbeat_interval or self.interval
        self.registered += report.registered
        self.registered_again += report.registered_again
        self.wrong_reads += report.wrong_reads
        self.errors.extend(report.errors)
        if not self.measuring:
            return
        for sort in ("heartbeats", "kv"):
            calls: list[tuple[float, float, str]] = getattr(report, sort)
            for ended, latency, failure in calls:
                if ended - latency > self.slow_until:
                    continue
                # A call belongs to the slow half if any part of it does.
                half = self.halves["slow" if ended >= self.slow_since else "healthy"]
                getattr(half, sort).add(latency, failure)


def as_json(settings: DemoSettings, outcome: Outcome, exit_code: int) -> dict[str, Any]:
    """The outcome for machines. Times in seconds."""
    facts = outcome.facts

    def spread(value: fault_pb2.Spread) -> dict[str, float]:
        return {name: getattr(value, name) for name in ("count", "mean", "p50", "p99", "max")}

    return {
        "held": outcome.verdict.held,
        "exit_code": exit_code,
        "outcome": outcome.verdict.outcome,
        "remark": outcome.verdict.remark,
        "checks": [vars(check) for check in outcome.verdict.checks],
        "settings": vars(settings),
        "gil_enabled": facts.gil_enabled,
        "nodes_alive": facts.nodes_alive,
        "registered_again": facts.registered_again,
        "wrong_reads": facts.wrong_reads,
        "slow_module": facts.slow_module,
        "stalls": [vars(stuck) for stuck in facts.stalls or ()],
        "heartbeats": {name: vars(summary) for name, summary in facts.heartbeats.items()},
        "store": {name: vars(summary) for name, summary in facts.kv.items()},
        "loops": [
            {
                "name": loop.name,
                "modules": list(loop.modules),
                "lag": loop.lag,
                "queued": loop.queued,
                "total": loop.total,
                "queue_time": spread(loop.queue_time),
                "execution_time": spread(loop.execution_time),
                "handlers": [
                    {
                        "name": handler.name,
                        "total": handler.total,
                        "active": handler.active,
                        "errors": handler.errors,
                        "queue_time": spread(handler.queue_time),
                        "execution_time": spread(handler.execution_time),
                    }
                    for handler in loop.handlers
                ],
            }
            for loop in outcome.loops
        ],
    }


async def run_until_signalled(demo: Demo) -> Outcome:
    """Runs the demo; SIGTERM ends it as Ctrl-C does.

    Raises:
        DemoError: it could not run to its end.
    """
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await demo.run()
