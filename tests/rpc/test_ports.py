"""Where a server listens."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.rpc.support import ClientProcess, add_methods, path, running

from atoll import rpc
from atoll.errors import BindError, ServerStateError

LOCALHOST = "authority=localhost"


async def answer(request: bytes, context: Any) -> bytes:
    peer: str = context.peer()
    return peer.encode()


def made() -> Any:
    server = rpc.server()
    add_methods(server, Answer=answer)
    return server


async def test_a_server_listens_on_several_ports(client: ClientProcess) -> None:
    server = made()
    ports = [server.add_insecure_port("127.0.0.1:0") for _ in range(3)]
    assert len(set(ports)) == 3
    async with running(server):
        for port in ports:
            assert (await client.call(f"127.0.0.1:{port}", path("Answer"))).code == "OK"


async def test_the_system_chooses_port_zero_and_a_port_that_is_left_out(client: ClientProcess) -> None:
    server = made()
    assert server.add_insecure_port("127.0.0.1:0") > 1024
    assert server.add_insecure_port("localhost:0") > 1024
    async with running(server) as target:
        assert (await client.call(target, path("Answer"))).code == "OK"


async def test_a_server_listens_on_a_unix_socket(client: ClientProcess, tmp_path: Path) -> None:
    server = made()
    address = f"unix:{tmp_path}/atoll.sock"
    assert server.add_insecure_port(address) == 1
    async with running(server):
        outcome = await client.call(address, path("Answer"), channel=LOCALHOST)
        assert outcome.code == "OK"
        assert outcome.reply is not None
        assert outcome.reply.startswith(b"unix:")
    assert not (tmp_path / "atoll.sock").exists()


@pytest.mark.parametrize("name", ["atoll.sock", "100% größer.sock", "[::1]:1.sock"])
async def test_clients_of_a_unix_socket_need_no_options(client: ClientProcess, tmp_path: Path, name: str) -> None:
    # Of the path they make an authority with percent signs.
    server = made()
    address = f"unix:{tmp_path}/{name}"
    server.add_insecure_port(address)
    percent = (("k", "100%"), ("raw-bin", b"%%%"))
    async with running(server):
        for metadata in ((), percent, percent, ()):
            assert (await client.call(address, path("Answer"), metadata=metadata)).code == "OK"
        calls = [client.start(address, path("Answer"), b"%" * 100_000) for _ in range(50)]
        assert {(await call.outcome()).code for call in calls} == {"OK"}


async def test_a_server_listens_on_a_unix_socket_whose_path_is_a_url(client: ClientProcess, tmp_path: Path) -> None:
    server = made()
    address = f"unix://{tmp_path}/atoll.sock"
    server.add_insecure_port(address)
    async with running(server):
        assert (await client.call(address, path("Answer"), channel=LOCALHOST)).code == "OK"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6")
async def test_a_server_listens_on_ipv6(client: ClientProcess) -> None:
    server = made()
    port = server.add_insecure_port("[::1]:0")
    async with running(server):
        outcome = await client.call(f"[::1]:{port}", path("Answer"))
    assert outcome.reply is not None
    # In this form, percent-encoded, grpc shows it, too.
    assert outcome.reply.startswith(b"ipv6:%5B::1%5D:")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6")
async def test_the_ipv6_wildcard_serves_ipv4_as_well(client: ClientProcess) -> None:
    server = made()
    port = server.add_insecure_port("[::]:0")
    async with running(server):
        assert (await client.call(f"127.0.0.1:{port}", path("Answer"))).code == "OK"
        assert (await client.call(f"[::1]:{port}", path("Answer"))).code == "OK"


async def test_a_port_that_is_taken_is_a_bind_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BindError, match=address) as raised:
            rpc.server().add_insecure_port(address)
    assert isinstance(raised.value, RuntimeError), "which is what grpc.aio raises"


async def test_a_port_that_another_server_listens_on_is_a_bind_error() -> None:
    async with running(made()) as target:
        with pytest.raises(BindError, match=target):
            rpc.server().add_insecure_port(target)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:port",
        "127.0.0.1:99999",
        "203.0.113.7:0",
        "no.such.host.invalid:0",
        "unix:",
        "unix:/no/such/folder/x",
        "",
    ],
)
async def test_what_cannot_be_listened_on_is_a_bind_error(address: str) -> None:
    server = rpc.server()
    with pytest.raises(BindError):
        server.add_insecure_port(address)


async def test_a_server_without_ports_starts_and_stops() -> None:
    server = made()
    await server.start()
    await server.stop(None)


async def test_a_started_server_takes_no_more_ports_and_services() -> None:
    server = made()
    async with running(server):
        with pytest.raises(ServerStateError, match="no more ports: add everything before"):
            server.add_insecure_port("127.0.0.1:0")
        with pytest.raises(ServerStateError, match="no more services: add everything before"):
            add_methods(server, service="b.Late", Answer=answer)
        with pytest.raises(ServerStateError):
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("c.Late", {}),))


async def test_connections_made_before_the_start_are_served_after_it(client: ClientProcess) -> None:
    server = made()
    early = client.start(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", path("Answer"))
    async with running(server):
        assert (await early.outcome()).code == "OK"


async def test_a_port_is_shared_only_when_both_servers_say_so(client: ClientProcess) -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        return b"here"

    shared = (("grpc.so_reuseport", 1),)
    first, second = rpc.server(options=shared), rpc.server(options=shared)
    port = first.add_insecure_port("127.0.0.1:0")
    assert second.add_insecure_port(f"127.0.0.1:{port}") == port
    for options in ((), (("grpc.so_reuseport", 0),)):
        with pytest.raises(BindError, match="another server listens there"):
            rpc.server(options=options).add_insecure_port(f"127.0.0.1:{port}")
    for server in (first, second):
        add_methods(server, Answer=answer)
        await server.start()
    # Whichever of them the system chooses.
    replies = [
        (await client.call(f"127.0.0.1:{port}", path("Answer"), channel=str(number))).reply for number in range(8)
    ]
    assert replies == [b"here"] * 8
    for server in (first, second):
        await server.stop(None)


async def test_a_port_is_not_shared_unless_asked_for() -> None:
    server = rpc.server()
    port = server.add_insecure_port("127.0.0.1:0")
    with pytest.raises(BindError, match="another server listens there"):
        rpc.server(options=(("grpc.so_reuseport", 1),)).add_insecure_port(f"127.0.0.1:{port}")
    await server.stop(None)
