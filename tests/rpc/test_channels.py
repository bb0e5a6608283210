"""grpc.aio's channels in a process with several loops: what docs/grpc-clients.md recommends, and what doesn't work."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import NewLoop, add_methods, path, running

from atoll import IoContext, rpc

# What is tested is grpcio's own channels on the loops of this process.
pytestmark = pytest.mark.whole_grpcio
LOOPS = 3
CALLS = 200


async def echo(request: bytes, context: Any) -> bytes:
    return request


class Downstream:
    """A module with a channel of its own, made on its loop."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.aio.insecure_channel(target)
        self.echo: Any = self.channel.unary_unary(path("Echo"))

    async def work(self) -> list[bytes]:
        return list(await asyncio.gather(*(self.echo(b"%d" % number, timeout=20) for number in range(CALLS))))

    async def stop(self) -> None:
        await self.channel.close()


async def made_on_its_loop(target: str) -> Downstream:
    return Downstream(target)


async def test_a_channel_per_loop_made_there_works_on_three_loops_at_once(new_loop: NewLoop, log: Log) -> None:
    server = rpc.server()
    add_methods(server, Echo=echo)
    loops: list[IoContext] = [new_loop(f"module-{number}") for number in range(LOOPS)]
    async with running(server) as target:
        modules = [await loop.submit(made_on_its_loop, target) for loop in loops]
        work = [loop.submit(module.work) for loop, module in zip(loops, modules, strict=True)]
        assert await asyncio.gather(*work) == [[b"%d" % number for number in range(CALLS)]] * LOOPS
        for loop, module in zip(loops, modules, strict=True):
            await loop.submit(module.stop)
    # Older versions of grpcio log that what one loop has read another found missing, and go on.
    log.take("BlockingIOError")


async def test_a_channel_of_another_loop_is_refused_by_asyncio(new_loop: NewLoop, log: Log) -> None:
    server = rpc.server()
    add_methods(server, Echo=echo)
    loop = new_loop("module")
    async with running(server) as target:
        here = Downstream(target)

        async def use() -> str:
            try:
                await here.echo(b"x", timeout=20)
            except RuntimeError as error:
                return str(error)
            return "it worked"

        assert "attached to a different loop" in await loop.submit(use)
        assert await here.echo(b"x", timeout=20) == b"x", "its own loop still may"
        await here.stop()
    log.lines.clear()
