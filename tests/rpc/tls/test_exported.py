"""What servers count of their clients' connections, as exporters and people have it."""

import asyncio

import prometheus_client
from prometheus_client import parser
from tests.rpc.frames import exchange
from tests.rpc.support import ClientProcess, add_methods, path, running, until
from tests.rpc.tls.support import Pem, answer

from atoll import rpc
from atoll.observe import PrometheusCollector, prometheus_text

HTTP1 = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def collected() -> str:
    registry = prometheus_client.CollectorRegistry()
    registry.register(PrometheusCollector())
    return prometheus_client.generate_latest(registry).decode()


def of_servers(text: str) -> dict[tuple[str, ...], float]:
    """The samples of servers, by name and label."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("atoll_server_")
    }


async def test_offences_handshakes_and_refused_requests_are_exported(client: ClientProcess, pem: Pem) -> None:
    server = rpc.server()
    add_methods(server, Answer=answer)
    secure = server.add_secure_port("127.0.0.1:0", rpc.ssl_server_credentials([pem.pair("server")]))
    async with running(server) as target:
        before = of_servers(prometheus_text())
        await asyncio.to_thread(exchange, target, HTTP1)
        await asyncio.to_thread(exchange, f"127.0.0.1:{secure}", HTTP1)
        assert (await client.call(target, "/no.Such/Method")).code == "UNIMPLEMENTED"
        assert (await client.call(f"localhost:{secure}", path("Answer"), channel=pem.channel())).code == "OK"
        expected = {
            ("atoll_server_offences_total", "http1"): 1.0,
            ("atoll_server_tls_handshakes_total", "plaintext"): 1.0,
            ("atoll_server_tls_handshakes_total", "finished"): 1.0,
            ("atoll_server_refused_total", "unknown_method"): 1.0,
        }

        def grown(text: str) -> dict[tuple[str, ...], float]:
            grown = {key: value - before[key] for key, value in of_servers(text).items()}
            return {key: value for key, value in grown.items() if value and len(key) == 2}

        await until(lambda: grown(prometheus_text()) == expected)
        assert grown(collected()) == expected
    assert grown(prometheus_text()) == expected, "it stays when the server has ended"
    now = of_servers(prometheus_text())
    assert now["atoll_server_connection_errors_total",] >= before["atoll_server_connection_errors_total",] + 2
    assert now["atoll_server_offences_total", "ping_flood"] >= 0, "also what never happened"
    assert now["atoll_server_connections",] >= 0
