"""The load: bulk calls at five times what the server can do, whether or not they are answered, and heartbeats."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from benchmarks.overloading import BEAT, BEATS_PER_SECOND, BULK, DEADLINE, OVERLOAD, SCAN_SECONDS
from benchmarks.summary import quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_TICK = 0.005


def run(port: int, seconds: float) -> None:
    """Call for so many seconds, and print what came of it as JSON."""
    sys.stdout.write(json.dumps(asyncio.run(_run(port, seconds))) + "\n")
    sys.stdout.flush()


async def _run(port: int, seconds: float) -> dict[str, object]:
    options = (("grpc.use_local_subchannel_pool", 1),)
    target = f"127.0.0.1:{port}"
    async with (
        grpc.aio.insecure_channel(target, options=options) as bulk_channel,
        grpc.aio.insecure_channel(target, options=options) as beat_channel,
    ):
        scan: Callable[..., Any] = bulk_channel.unary_unary(BULK)
        beat: Callable[..., Any] = beat_channel.unary_unary(BEAT)
        await beat(b"", wait_for_ready=True)
        await scan(b"", wait_for_ready=True)
        outcomes: Counter[str] = Counter()
        beats: list[float] = []
        missed: Counter[str] = Counter()
        calls: set[asyncio.Task[None]] = set()

        async def call() -> None:
            try:
                await scan(b"", timeout=DEADLINE)
                outcomes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                outcomes[error.code().name] += 1

        async def beat_once() -> None:
            started = time.perf_counter()
            try:
                await beat(b"", timeout=DEADLINE)
                beats.append(time.perf_counter() - started)
            except grpc.aio.AioRpcError as error:
                missed[error.code().name] += 1

        def start(coroutine: Coroutine[Any, Any, None]) -> None:
            task = asyncio.ensure_future(coroutine)
            calls.add(task)
            task.add_done_callback(calls.discard)

        rate = OVERLOAD / SCAN_SECONDS
        began = time.perf_counter()
        sent = beats_sent = 0
        while (elapsed := time.perf_counter() - began) < seconds:
            while sent < elapsed * rate:
                sent += 1
                start(call())
            while beats_sent < elapsed * BEATS_PER_SECOND:
                beats_sent += 1
                start(beat_once())
            await asyncio.sleep(_TICK)
        await asyncio.gather(*calls)
    beats.sort()
    return {
        "sent": sent,
        "outcomes": outcomes,
        "beats": beats_sent,
        "beats_missed": sum(missed.values()),
        "beat_p50_us": quantile(beats, 0.5) * 1e6 if beats else None,
        "beat_p99_us": quantile(beats, 0.99) * 1e6 if beats else None,
    }
