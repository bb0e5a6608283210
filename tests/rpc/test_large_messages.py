"""Large messages come through as they are, and what carries them is let go of."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from tests.interpreters import CLIENT_PYTHON
from tests.rpc.support import TIMEOUT, ClientProcess, add_methods, path, running, serving, stub_client, until

from atoll import rpc

KIB = 1 << 10
MIB = 1 << 20
# Around the size from which on replies are not copied.
SIZES = (64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB, 3 * MIB + 7)


def content(size: int) -> bytes:
    """Bytes that differ everywhere; each call makes an object of its own."""
    return random.Random(size).randbytes(size)  # noqa: S311 - nothing secret


class Kept:
    """A message, and how many hold it."""

    def __init__(self, size: int = 4 * MIB) -> None:
        self.message = content(size)
        self._alone = self.holders()

    def holders(self) -> int:
        return sys.getrefcount(self.message)

    async def is_on_the_way(self) -> None:
        await until(lambda: self.holders() > self._alone)

    async def is_let_go(self) -> None:
        await until(lambda: self.holders() == self._alone)


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def test_large_messages_come_through_as_they_are(client: ClientProcess) -> None:
    async with serving(Echo=echo) as target:
        for size in SIZES:
            outcome = await client.call(target, path("Echo"), content(size))
            assert (outcome.code, outcome.reply == content(size)) == ("OK", True), size


async def test_large_messages_of_a_stream_come_through_as_they_are(client: ClientProcess) -> None:
    async def talk(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield b"small"
            yield request

    async with serving(kind=grpc.stream_stream_rpc_method_handler, Talk=talk) as target:
        stream = client.open(target, path("Talk"), timeout=60)
        for size in SIZES:
            await stream.write(content(size))
            assert await stream.read() == b"small"
            assert await stream.read() == content(size), size
        await stream.take("done_writing")
        assert (await stream.end()).code == "OK"


async def test_a_reply_is_let_go_when_it_has_been_sent(client: ClientProcess) -> None:
    kept = Kept()

    async def answer(request: bytes, context: Any) -> bytes:
        return kept.message

    async with serving(Answer=answer) as target:
        for _ in range(3):
            assert (await client.call(target, path("Answer"))).reply == kept.message
            await kept.is_let_go()


async def test_a_reply_of_a_client_that_goes_meanwhile_is_let_go(client: ClientProcess) -> None:
    kept = Kept()

    async def give(request: bytes, context: Any) -> AsyncIterator[bytes]:
        while True:
            yield kept.message

    async with serving(kind=grpc.unary_stream_rpc_method_handler, Give=give) as target:
        stream = client.open(target, path("Give"), timeout=60)
        await stream.write(b"")
        await stream.take("done_writing")
        assert await stream.read() == kept.message
        await kept.is_on_the_way()
        await stream.take("cancel")
        await kept.is_let_go()

        lost = ClientProcess()
        stream = lost.open(target, path("Give"), timeout=60)
        await stream.write(b"")
        await stream.take("done_writing")
        assert await stream.read() == kept.message
        await asyncio.to_thread(lost.kill)
        await kept.is_let_go()


async def test_replies_that_come_too_late_are_let_go(client: ClientProcess) -> None:
    kept, ended = Kept(), asyncio.Event()

    async def answer(request: bytes, context: Any) -> bytes:
        context.add_done_callback(lambda _: ended.set())
        try:
            await asyncio.sleep(TIMEOUT)
        except asyncio.CancelledError:
            return kept.message
        return b""

    async with serving(Answer=answer) as target:
        assert (await client.call(target, path("Answer"), timeout=0.1)).code == "DEADLINE_EXCEEDED"
        async with asyncio.timeout(TIMEOUT):
            await ended.wait()
        await kept.is_let_go()


async def test_a_compressed_reply_is_made_of_a_message_that_is_let_go_at_once(client: ClientProcess) -> None:
    kept = Kept()

    async def answer(request: bytes, context: Any) -> bytes:
        return kept.message

    server = rpc.server(compression=rpc.Compression.Gzip)
    add_methods(server, Answer=answer)
    async with running(server) as target:
        assert (await client.call(target, path("Answer"))).reply == kept.message
        await kept.is_let_go()


async def test_large_replies_of_the_thread_pool_are_let_go(client: ClientProcess) -> None:
    kept = Kept()

    def give(request: bytes, context: Any) -> Any:
        for _ in range(8):
            yield kept.message

    async with serving(kind=grpc.unary_stream_rpc_method_handler, Give=give) as target:
        stream = client.open(target, path("Give"), timeout=60)
        await stream.write(b"")
        await stream.take("done_writing")
        for _ in range(8):
            assert await stream.read() == kept.message
        assert (await stream.end()).code == "OK"
        await kept.is_let_go()


@contextlib.contextmanager
def serving_process(program: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server in a process of its own, which ends when its stdin does. Gives its address and the process."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{process.stdout.readline().strip()}", process
        _, log = process.communicate(timeout=TIMEOUT)
        assert (process.returncode, log) == (0, "")
    finally:
        process.kill()


HOLDS_THE_GIL = """
import asyncio, ctypes, sys
import grpc
from atoll import rpc

async def give(request, context):
    yield bytes(4 << 20)
    yield bytes(100)
    # All there is has been handed over, and this lets no other thread of Python run.
    ctypes.PyDLL(None).usleep(3_000_000)
    yield b"the end"

async def main():
    server = rpc.server()
    handlers = {"Give": grpc.unary_stream_rpc_method_handler(give)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)

asyncio.run(main())
"""

WATCHES_THE_CLOCK = """
import time
options = [("grpc.max_receive_message_length", -1)]
with grpc.insecure_channel(sys.argv[2], options=options) as channel:
    replies = channel.unary_stream("/a.B/Give")(b"", timeout=30)
    came = [(len(reply), time.monotonic()) for reply in replies]
assert [size for size, _ in came] == [4 << 20, 100, 7]
assert came[2][1] - came[1][1] > 1.5, came
"""


@pytest.mark.server_process
def test_replies_are_sent_and_let_go_while_the_gil_is_held() -> None:
    with serving_process(HOLDS_THE_GIL) as (target, _):
        assert asyncio.run(stub_client(target, WATCHES_THE_CLOCK)) == "all is well"


ENDS_WITH_REPLIES_ON_THE_WAY = """
import asyncio, sys, threading
import grpc
from atoll import rpc

async def give(request, context):
    while True:
        yield bytes(4 << 20)

async def main():
    server = rpc.server()
    handlers = {"Give": grpc.unary_stream_rpc_method_handler(give)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


READS_ON = """
import grpc, sys
options = [("grpc.max_receive_message_length", -1)]
with grpc.insecure_channel(sys.argv[1], options=options) as channel:
    for reply in channel.unary_stream("/a.B/Give")(b"", timeout=60):
        print(len(reply), flush=True)
"""


@pytest.mark.server_process
def test_a_process_may_end_with_large_replies_on_the_way() -> None:
    with serving_process(ENDS_WITH_REPLIES_ON_THE_WAY) as (target, process):
        reading = subprocess.Popen(
            [CLIENT_PYTHON, "-c", READS_ON, target], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert reading.stdout is not None
        for _ in range(3):
            assert reading.stdout.readline().strip() == str(4 << 20)
        assert process.stdin is not None
        process.stdin.write("end\n")
        process.stdin.flush()
        assert process.wait(TIMEOUT) == 0
        reading.kill()
        reading.communicate(timeout=TIMEOUT)
