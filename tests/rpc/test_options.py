"""What can be set for a server, and what is refused."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import ClientProcess, add_methods, path, running, serving

from atoll import rpc
from atoll.rpc import _options


async def size(request: bytes, context: Any) -> bytes:
    return str(len(request)).encode()


async def large(request: bytes, context: Any) -> bytes:
    return bytes(int(request))


async def test_requests_are_limited_to_four_megabytes_unless_said_otherwise(client: ClientProcess) -> None:
    limit = 4 * 1024 * 1024
    async with serving(Size=size) as target:
        assert (await client.call(target, path("Size"), bytes(limit))).reply == str(limit).encode()
        outcome = await client.call(target, path("Size"), bytes(limit + 1))
        assert outcome.code == "RESOURCE_EXHAUSTED"
        assert outcome.details == f"SERVER: Received message larger than max ({limit + 1} vs. {limit})"
        assert (await client.call(target, path("Size"), b"four")).reply == b"4"


async def test_replies_are_unlimited_unless_said_otherwise(client: ClientProcess) -> None:
    async with serving(Large=large) as target:
        assert len((await client.call(target, path("Large"), b"20000000")).reply or b"") == 20_000_000


async def test_the_limits_of_messages_can_be_set(client: ClientProcess) -> None:
    options = (("grpc.max_receive_message_length", 1000), ("grpc.max_send_message_length", 2000))
    async with serving(Size=size, Large=large, options=options) as target:
        assert (await client.call(target, path("Size"), bytes(1000))).code == "OK"
        assert (await client.call(target, path("Size"), bytes(1001))).code == "RESOURCE_EXHAUSTED"
        assert (await client.call(target, path("Large"), b"2000")).code == "OK"
        outcome = await client.call(target, path("Large"), b"2001")
        assert outcome.code == "RESOURCE_EXHAUSTED"
        assert outcome.details == "SERVER: Sent message larger than max (2001 vs. 2000)"


async def test_minus_one_is_unlimited(client: ClientProcess) -> None:
    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    async with serving(Size=size, Large=large, options=options) as target:
        assert (await client.call(target, path("Size"), bytes(10_000_000))).reply == b"10000000"


async def test_more_calls_than_a_connection_may_have_wait_for_their_turn(client: ClientProcess) -> None:
    async with serving(Size=size, options=(("grpc.max_concurrent_streams", 3),)) as target:
        calls = [client.start(target, path("Size"), bytes(index)) for index in range(100)]
        assert [(await call.outcome()).reply for call in calls] == [str(index).encode() for index in range(100)]


async def test_the_limit_of_metadata_can_be_set(client: ClientProcess) -> None:
    async with serving(Size=size, options=(("grpc.max_metadata_size", 64 * 1024),)) as target:
        assert (await client.call(target, path("Size"), metadata=(("big", "x" * 40_000),))).code == "OK"


async def test_several_network_threads_serve_the_connections(client: ClientProcess) -> None:
    server = rpc.server(network_threads=3)
    add_methods(server, Size=size)
    async with running(server) as target:
        calls = [client.start(target, path("Size"), b"x", channel=str(index)) for index in range(12)]
        assert {(await call.outcome()).reply for call in calls} == {b"1"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ([("grpc.max_receive_message_length", "big")], TypeError, "grpc.max_receive_message_length='big'"),
        ([("grpc.max_receive_message_length", -2)], ValueError, "grpc.max_receive_message_length=-2"),
        ([("grpc.max_send_message_length", 2**40)], ValueError, "grpc.max_send_message_length"),
        ([("grpc.max_concurrent_streams", 0)], ValueError, "grpc.max_concurrent_streams=0"),
        ([("grpc.max_metadata_size", None)], TypeError, "grpc.max_metadata_size=None"),
        ([("grpc.so_reuseport", 2)], ValueError, "grpc.so_reuseport=2"),
    ],
)
def test_an_option_that_cannot_work_is_an_error_that_names_it(
    options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        rpc.server(options=options)


@pytest.mark.parametrize("count", [0, -1, 1.5, 10_000])
def test_a_number_of_network_threads_that_cannot_work_is_an_error_that_names_it(count: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="network_threads"):
        rpc.server(network_threads=count)


def test_an_option_without_meaning_here_is_warned_about_once(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_options, "_warned", set())
    for _ in range(3):
        rpc.server(options=(("grpc.lb_policy_name", "x"), ("grpc.primary_user_agent", "y")))
    assert len(log.take("the channel option grpc.lb_policy_name has no effect")) == 1
    assert len(log.take("the channel option grpc.primary_user_agent has no effect")) == 1


def test_grpc_aios_defaults_are_accepted() -> None:
    rpc.server(None, None, None, None, None, None)
    rpc.server(handlers=(), interceptors=(), options=(), compression=grpc.Compression.NoCompression)
    with ThreadPoolExecutor(1) as pool:
        rpc.server(migration_thread_pool=pool)


def test_without_grpcio_the_factory_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['grpc'] = None\n"
        "from atoll import rpc\n"
        "try:\n    rpc.server()\n"
        "except ImportError as error:\n    print(error)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'atoll[grpc]'; or construct rpc.Server, which does not" in finished.stdout


KEEPS_MEMORY = """
import asyncio, ctypes, sys
from atoll import rpc

libc = ctypes.CDLL(None)

class Info(ctypes.Structure):  # struct mallinfo2
    names = ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
    _fields_ = [(name, ctypes.c_size_t) for name in names]

libc.mallinfo2.restype = Info
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]

def is_handed_back():
    "Whether a block of 8 MiB would go back to the system as soon as it is freed: it is a mapping of its own."
    before = libc.mallinfo2().hblks
    libc.malloc(8 << 20)
    return libc.mallinfo2().hblks > before

async def main():
    server = rpc.server(options=eval(sys.argv[1]))
    server.add_insecure_port("127.0.0.1:0")
    print(is_handed_back())
    await server.start()
    print(is_handed_back())
    await server.stop(None)

asyncio.run(main())
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver()[0], reason="the C library decides for itself")
@pytest.mark.parametrize(
    ("options", "is_handed_back"),
    [((), ["True", "False"]), ((("atoll.kept_memory_bytes", 0),), ["True", "True"])],
    ids=["by default", "switched off"],
)
def test_memory_of_large_messages_is_kept_unless_said_otherwise(options: Any, is_handed_back: list[str]) -> None:
    command = [sys.executable, "-c", KEEPS_MEMORY, repr(options)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (finished.stdout.split(), finished.stderr) == (is_handed_back, "")
