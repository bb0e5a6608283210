"""However much goes through a stream, and however slow its reader is, the server holds only a bounded part of it."""

import ast
import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.rpc.stream_server import SERVICE, WINDOW
from tests.rpc.support import HERE, ClientProcess, stub_client

MIB = 1 << 20
# Pages of the interpreter and the allocators', whatever goes through.
ALLOWANCE = 64 * MIB
# What lies between handler and client: the reply buffer, h2's, the sockets', the client's window and its read-ahead.
ON_THE_WAY = 24 * MIB


@pytest.fixture
def target() -> Iterator[str]:
    command = [sys.executable, str(HERE / "stream_server.py")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield f"127.0.0.1:{process.stdout.readline().strip()}"
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert log == ""


async def measure(client: ClientProcess, target: str) -> tuple[int, int]:
    """The most memory that the server has had, and what it has written, in bytes."""
    outcome = await client.call(target, f"/{SERVICE}/Measure")
    assert outcome.reply is not None
    most, written = ast.literal_eval(outcome.reply.decode())
    return most, written


TAKE = f"""
message, count = bytes({WINDOW}), {{count}}
with grpc.insecure_channel(sys.argv[2]) as channel:
    reply = channel.stream_unary("/{SERVICE}/Take")(message for _ in range(count))
    assert int(reply) == count * len(message), reply
"""

GIVE = f"""
with grpc.insecure_channel(sys.argv[2]) as channel:
    replies = channel.unary_stream("/{SERVICE}/Give")(b"{{count}}")
    assert sum(map(len, replies)) == {{count}} * {WINDOW}
"""


@pytest.mark.parametrize("program", [TAKE, GIVE], ids=["requests", "replies"])
async def test_a_gibibyte_goes_through_a_window_of_64_kib_in_bounded_memory(
    client: ClientProcess, target: str, program: str
) -> None:
    assert await stub_client(target, program.format(count=16)) == "all is well"
    before, _ = await measure(client, target)
    assert await stub_client(target, program.format(count=(1 << 30) // WINDOW)) == "all is well"
    after, _ = await measure(client, target)
    assert after - before < ALLOWANCE


async def settled(client: ClientProcess, target: str) -> int:
    """What the server has written when it writes no more."""
    written = -1
    while True:
        now = (await measure(client, target))[1]
        if now == written:
            return now
        written = now
        await asyncio.sleep(0.3)


async def test_a_client_that_reads_slowly_stops_the_handlers_writes(client: ClientProcess, target: str) -> None:
    stream = client.open(target, f"/{SERVICE}/Give", timeout=60)
    await stream.write(b"8192")  # half a gibibyte
    await stream.take("done_writing")
    assert await stream.read() == bytes(WINDOW)
    first = await settled(client, target)
    assert first < ON_THE_WAY
    for _ in range(2 * first // WINDOW):
        await stream.read()
    second = await settled(client, target)
    assert first < second < first + 2 * first + ON_THE_WAY
    await stream.take("cancel")


async def test_a_handler_that_does_not_read_stops_its_client(client: ClientProcess, target: str) -> None:
    before, _ = await measure(client, target)
    streams: list[Any] = []
    for _ in range(8):
        stream = client.open(target, f"/{SERVICE}/Hold", timeout=60)
        await stream.take("initial")
        streams.append((stream, stream.step("write", bytes(MIB), 100)))
    await asyncio.sleep(1)
    after, _ = await measure(client, target)
    assert not any(writing.done() for _, writing in streams)
    assert after - before < ALLOWANCE
    for stream, _ in streams:
        stream.step("cancel")
    # What it held is gone: as many streams again cost nothing more.
    assert await stub_client(target, TAKE.format(count=1000)) == "all is well"
    again, _ = await measure(client, target)
    assert again - after < ALLOWANCE // 4
