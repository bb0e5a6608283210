"""Ports with TLS, as grpcio's clients and others see them."""

import asyncio
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.interpreters import CLIENT_PYTHON
from tests.rpc.support import TIMEOUT, ClientProcess, add_methods, path, running, until
from tests.rpc.tls.support import Pem, answer, client_context, connect, handshakes, mutual, secured, shown_certificate

from atoll import rpc
from atoll.errors import BindError, ServerStateError

LARGE = bytes(range(256)) * 16 * 1024


async def echo(request: bytes, _context: object) -> bytes:
    return request


async def test_a_stock_client_calls_over_tls(client: ClientProcess, pem: Pem) -> None:
    async with secured(rpc.ssl_server_credentials([pem.pair("server")])) as (server, target):
        outcome = await client.call(target, path("Answer"), channel=pem.channel())
        assert (outcome.code, outcome.reply is not None) == ("OK", True)
        assert handshakes(server, "finished") == 1


async def test_a_client_is_pinged_through_tls(client: ClientProcess, pem: Pem) -> None:
    connections: list[rpc.Connection] = []

    async def keep(_request: bytes, context: Any) -> bytes:
        connections.append(context.connection)
        return b""

    async with secured(rpc.ssl_server_credentials([pem.pair("server")]), Keep=keep) as (_, target):
        assert (await client.call(target, path("Keep"), channel=pem.channel())).code == "OK"
        assert 0 < await connections[0].ping(TIMEOUT) < TIMEOUT


async def test_a_synchronous_client_calls_over_tls(pem: Pem) -> None:
    program = (
        "import grpc, pathlib, sys\n"
        "roots = pathlib.Path(sys.argv[2]).read_bytes()\n"
        "with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials(roots)) as channel:\n"
        "    print(channel.unary_unary(sys.argv[3])(b'', timeout=20).decode())\n"
    )
    async with secured(rpc.ssl_server_credentials([pem.pair("server")])) as (_, target):
        command = [CLIENT_PYTHON, "-c", program, target, str(pem.path("authority.pem")), path("Answer")]
        run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.startswith("ipv4:127.0.0.1:"), run.stderr


async def test_an_rsa_key_serves_as_well(client: ClientProcess, pem: Pem) -> None:
    async with secured(rpc.ssl_server_credentials([pem.pair("rsa")])) as (_, target):
        assert (await client.call(target, path("Answer"), channel=pem.channel())).code == "OK"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_served_and_nothing_older(version: ssl.TLSVersion, pem: Pem) -> None:
    context = client_context("h2")
    context.minimum_version = context.maximum_version = version
    async with secured(rpc.ssl_server_credentials([pem.pair("server")])) as (_, target):
        with await asyncio.to_thread(connect, target, context) as connection:
            assert connection.selected_alpn_protocol() == "h2"
            assert connection.version() == version.name.replace("_", ".")


async def test_messages_of_megabytes_travel_both_ways(client: ClientProcess, pem: Pem) -> None:
    server = rpc.server(options=[("grpc.max_receive_message_length", -1)])
    async with secured(rpc.ssl_server_credentials([pem.pair("server")]), server, Echo=echo) as (_, target):
        outcome = await client.call(target, path("Echo"), LARGE, channel=pem.channel())
    assert outcome.reply == LARGE


async def test_secure_and_insecure_ports_serve_side_by_side(client: ClientProcess, pem: Pem) -> None:
    server = rpc.server()
    add_methods(server, Answer=answer)
    secure = server.add_secure_port("127.0.0.1:0", rpc.ssl_server_credentials([pem.pair("server")]))
    async with running(server) as plain:
        assert (await client.call(plain, path("Answer"))).code == "OK"
        assert (await client.call(f"localhost:{secure}", path("Answer"), channel=pem.channel())).code == "OK"


async def test_a_unix_socket_can_be_secured(pem: Pem, tmp_path: Path) -> None:
    server = rpc.server()
    add_methods(server, Answer=answer)
    credentials = rpc.ssl_server_credentials([pem.pair("server")])
    assert server.add_secure_port(f"unix:{tmp_path}/atoll.sock", credentials) == 1
    async with running(server):
        context = client_context("h2")
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(TIMEOUT)
            plain.connect(f"{tmp_path}/atoll.sock")
            secure = await asyncio.to_thread(context.wrap_socket, plain, server_hostname="localhost")
            with secure:
                assert secure.selected_alpn_protocol() == "h2"


async def test_an_address_that_is_taken_is_a_bind_error(pem: Pem) -> None:
    credentials = rpc.ssl_server_credentials([pem.pair("server")])
    async with secured(credentials) as (server, target):
        with pytest.raises(BindError):
            rpc.server().add_secure_port(target.replace("localhost", "127.0.0.1"), credentials)
        with pytest.raises(ServerStateError, match="no more ports"):
            server.add_secure_port("127.0.0.1:0", credentials)


# -------------------------------------------------------------------------------------------------------- client's side


async def test_a_client_of_another_authority_does_not_trust_the_server(client: ClientProcess, pem: Pem) -> None:
    async with secured(rpc.ssl_server_credentials([pem.pair("strange-server")])) as (server, target):
        outcome = await client.call(target, path("Answer"), channel=pem.channel())
        assert outcome.code == "UNAVAILABLE"
        assert "CERTIFICATE_VERIFY_FAILED" in outcome.details
        await until(lambda: handshakes(server, "failed"))


async def test_an_expired_certificate_is_not_trusted(client: ClientProcess, pem: Pem) -> None:
    async with secured(rpc.ssl_server_credentials([pem.pair("expired-server")])) as (_, target):
        outcome = await client.call(target, path("Answer"), channel=pem.channel())
    assert outcome.code == "UNAVAILABLE"
    assert "expired" in outcome.details


async def test_a_client_without_tls_is_told_and_counted(client: ClientProcess, pem: Pem) -> None:
    async with secured(rpc.ssl_server_credentials([pem.pair("server")])) as (server, target):
        outcome = await client.call(target, path("Answer"), timeout=5.0)
        assert outcome.code == "UNAVAILABLE"
        await until(lambda: handshakes(server, "plaintext"))
        assert handshakes(server, "finished") == 0
        # Whoever comes with TLS is served all the same.
        assert (await client.call(target, path("Answer"), channel=pem.channel())).code == "OK"


def exchange(target: str, request: bytes) -> bytes:
    """Sends without TLS and reads to the end; blocks."""
    host, port = target.split(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as plain:
        plain.sendall(request)
        answered = b""
        while received := plain.recv(4096):
            answered += received
    return answered


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)), b"This port speaks TLS"),
        (b"\0\1\2\3 what is this", b""),
    ],
    ids=["http1", "http2", "garbage"],
)
async def test_plaintext_on_a_tls_port_gets_an_answer_it_understands(
    request_: bytes, expected: bytes, pem: Pem
) -> None:
    async with secured(rpc.ssl_server_credentials([pem.pair("server")])) as (server, target):
        answered = await asyncio.to_thread(exchange, target, request_)
        assert expected in answered
        assert bool(answered) is bool(expected)
        await until(lambda: handshakes(server, "plaintext") == 1)


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)], ids=["none", "another"])
async def test_a_client_that_does_not_offer_h2_is_refused(protocols: tuple[str, ...], pem: Pem) -> None:
    async with secured(rpc.ssl_server_credentials([pem.pair("server")])) as (server, target):
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            await asyncio.to_thread(connect, target, client_context(*protocols))
        await until(lambda: handshakes(server, "without_http2") == 1)


async def test_a_client_that_offers_h2_among_others_gets_h2(pem: Pem) -> None:
    async with secured(rpc.ssl_server_credentials([pem.pair("server")])) as (_, target):
        with await asyncio.to_thread(connect, target, client_context("http/1.1", "h2")) as connection:
            assert connection.selected_alpn_protocol() == "h2"


async def test_of_several_pairs_a_client_gets_the_one_of_the_name_it_asked_for(pem: Pem) -> None:
    credentials = rpc.ssl_server_credentials([pem.pair("server"), pem.pair("other-name")])
    async with secured(credentials) as (_, target):
        for name, expected in [("other.example", "other-name"), ("localhost", "server"), (None, "server")]:
            assert await asyncio.to_thread(shown_certificate, target, name) == pem.der(expected)
        assert await asyncio.to_thread(shown_certificate, target, "nobody.example") == pem.der("server")


# -------------------------------------------------------------------------------------------------- client certificates


async def test_a_client_with_a_certificate_of_the_roots_is_served(client: ClientProcess, pem: Pem) -> None:
    credentials = mutual(pem)
    async with secured(credentials) as (_, target):
        assert (await client.call(target, path("Answer"), channel=pem.channel(own="client"))).code == "OK"


@pytest.mark.parametrize("own", [None, "strange-client", "expired-client"])
async def test_a_client_without_a_valid_certificate_is_refused_and_counted(
    own: str | None, client: ClientProcess, pem: Pem
) -> None:
    async with secured(mutual(pem)) as (server, target):
        outcome = await client.call(target, path("Answer"), channel=pem.channel(own=own))
        assert outcome.code == "UNAVAILABLE"
        await until(lambda: handshakes(server, "client_certificate"))
        assert handshakes(server, "finished") == 0


async def test_a_certificate_that_is_not_required_is_not_asked_for(client: ClientProcess, pem: Pem) -> None:
    credentials = rpc.ssl_server_credentials([pem.pair("server")], pem.read("authority.pem"), require_client_auth=False)
    async with secured(credentials) as (_, target):
        assert (await client.call(target, path("Answer"), channel=pem.channel(own="strange-client"))).code == "OK"


# -------------------------------------------------------------------------------------------------------------- the end


async def test_a_reply_in_flight_arrives_although_the_server_stops(client: ClientProcess, pem: Pem) -> None:
    started = asyncio.Event()
    finish = asyncio.Event()

    async def wait(_request: bytes, _context: object) -> bytes:
        started.set()
        await finish.wait()
        return LARGE

    server = rpc.server()
    async with secured(rpc.ssl_server_credentials([pem.pair("server")]), server, Wait=wait) as (_, target):
        call = client.start(target, path("Wait"), channel=pem.channel())
        await started.wait()
        stopping = asyncio.ensure_future(server.stop(20))
        await asyncio.sleep(0)
        finish.set()
        outcome = await call.outcome()
        await stopping
    assert (outcome.code, outcome.reply) == ("OK", LARGE)


async def test_the_end_of_a_connection_is_said_in_tls(pem: Pem) -> None:
    greeted = threading.Event()

    def read_to_the_end(target: str) -> bytes:
        with connect(target, client_context("h2")) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
            received = connection.recv(4096)
            greeted.set()
            while more := connection.recv(4096):
                received += more
            return received

    async with secured(rpc.ssl_server_credentials([pem.pair("server")])) as (server, target):
        reading = asyncio.ensure_future(asyncio.to_thread(read_to_the_end, target))
        await until(greeted.is_set)
        await server.stop(None)
        received = await reading
    # GOAWAY is its last frame.
    assert received[-17:-13] == bytes((0, 0, 8, 7))


async def test_clients_that_never_finish_their_handshake_do_not_hold_up_a_stop(pem: Pem) -> None:
    async with secured(rpc.ssl_server_credentials([pem.pair("server")])) as (server, target):
        host, port = target.split(":")
        with socket.create_connection((host, int(port)), TIMEOUT) as silent:
            silent.sendall(b"\x16\x03\x01")
            await until(lambda: server._core.counts()[0])
            await server.stop(None)


def test_grpcs_own_credentials_are_refused_and_the_right_call_is_shown(pem: Pem) -> None:
    theirs = grpc.ssl_server_credentials([pem.pair("server")])
    with pytest.raises(TypeError, match=r"write rpc\.ssl_server_credentials\(\.\.\.\) instead of grpc"):
        rpc.server().add_secure_port("127.0.0.1:0", theirs)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"make one with rpc\.ssl_server_credentials"):
        rpc.server().add_secure_port("127.0.0.1:0", None)  # type: ignore[arg-type]
