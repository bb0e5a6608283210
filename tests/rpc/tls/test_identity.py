"""Who a client is, as a handler learns it: the words and values are grpc.aio's."""

import ast
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.rpc.support import ClientProcess, add_methods, path, running
from tests.rpc.tls.support import Pem, mutual, secured

from atoll import rpc


async def tell(_request: bytes, context: Any) -> bytes:
    told = {
        "key": context.peer_identity_key(),
        "identities": None if context.peer_identities() is None else list(context.peer_identities()),
        "context": {name: list(values) for name, values in context.auth_context().items()},
    }
    return repr(told).encode()


async def told(client: ClientProcess, target: str, channel: str = "") -> dict[str, Any]:
    outcome = await client.call(target, path("Tell"), channel=channel)
    assert outcome.code == "OK", outcome.details
    assert outcome.reply is not None
    read: dict[str, Any] = ast.literal_eval(outcome.reply.decode())
    return read


@contextlib.asynccontextmanager
async def theirs(credentials: Any) -> AsyncIterator[str]:
    """A server of grpc.aio's own."""
    server: Any = grpc.aio.server()
    add_methods(server, Tell=tell)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"localhost:{port}"
    finally:
        await server.stop(None)


async def test_a_client_is_known_by_its_certificate(client: ClientProcess, pem: Pem) -> None:
    credentials = mutual(pem)
    async with secured(credentials, Tell=tell) as (_, target):
        seen = await told(client, target, pem.channel(own="client"))
    names = [b"node-7.example", b"spiffe://example.org/node/7", b"node-7@example.org", b"127.0.0.1", b"2001:db8::7"]
    assert seen["key"] == "x509_subject_alternative_name"
    assert seen["identities"] == names
    context = seen["context"]
    assert context["x509_subject_alternative_name"] == names
    assert context["x509_common_name"] == [b"node-7"]
    assert context["x509_pem_cert"] == [pem.read("client.pem")]
    assert context["transport_security_type"] == [b"ssl"]
    assert context["security_level"] == [b"TSI_PRIVACY_AND_INTEGRITY"]
    assert context["peer_spiffe_id"] == [b"spiffe://example.org/node/7"]


@pytest.mark.whole_grpcio
@pytest.mark.parametrize("own", ["client", "client-without-names", None])
async def test_a_handler_sees_what_grpc_aio_shows(own: str | None, client: ClientProcess, pem: Pem) -> None:
    arguments: Any = ([pem.pair("server")], pem.read("authority.pem"), own is not None)
    async with (
        secured(rpc.ssl_server_credentials(*arguments), Tell=tell) as (_, ours),
        theirs(grpc.ssl_server_credentials(*arguments)) as other,
    ):
        seen = await told(client, ours, pem.channel(own=own))
        expected = await told(client, other, pem.channel(own=own))
    # Each server chooses its own.
    assert seen["context"].pop("ssl_negotiated_key_exchange_group") == [b"X25519"]
    expected["context"].pop("ssl_negotiated_key_exchange_group", None)
    assert seen == expected


@pytest.mark.whole_grpcio
async def test_without_tls_a_handler_sees_what_grpc_aio_shows(client: ClientProcess) -> None:
    ours: Any = rpc.server()
    add_methods(ours, Tell=tell)
    other: Any = grpc.aio.server()
    add_methods(other, Tell=tell)
    async with running(ours) as our_target, running(other) as other_target:
        seen = await told(client, our_target)
        assert seen == await told(client, other_target)
    assert seen["identities"] is None
    assert seen["context"]["transport_security_type"] == [b"insecure"]


async def test_each_connection_has_its_own_client(client: ClientProcess, pem: Pem) -> None:
    credentials = mutual(pem)
    async with secured(credentials, Tell=tell) as (_, target):
        channels = {own: pem.channel(own=own) for own in ("client", "client-without-names")}
        for _ in range(2):
            for own, channel in channels.items():
                seen = await told(client, target, channel)
                assert seen["context"]["x509_pem_cert"] == [pem.read(f"{own}.pem")]


async def test_a_plain_function_sees_its_client_as_well(client: ClientProcess, pem: Pem) -> None:
    def tell_plainly(_request: bytes, context: Any) -> bytes:
        return repr((context.peer_identity_key(), context.peer_identities())).encode()

    credentials = mutual(pem)
    async with secured(credentials, Tell=tell_plainly) as (_, target):
        outcome = await client.call(target, path("Tell"), channel=pem.channel(own="client-without-names"))
    assert outcome.reply == b"('x509_common_name', [b'node-8'])"
