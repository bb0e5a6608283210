"""`MetricsEndpoint`: answers `GET /metrics` over HTTP/1.1 on the server's main loop.

Why beside `atoll.observe.ObserveEndpoint`: that one is native, and tells what loops and servers count, but has no way
yet for a program's own numbers. This one needs the main loop, on which no module lives, and the GIL.

One connection carries one request. Whoever comes by loopback is answered only when it asks for a name of it: a page in
a browser that has its own name point here gets nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Self

from atoll.errors import BindError
from atoll_control.server.security import is_loopback_host

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_CONNECTIONS: Final = 16
MAX_HEAD_BYTES: Final = 16 << 10
# Seconds for a request's head, and for everything.
HEAD_TIMEOUT: Final = 5.0
EXCHANGE_TIMEOUT: Final = 15.0

_PLAIN: Final = "text/plain; charset=utf-8"
_NOT_LOOPBACK: Final = "requests are answered here only when their Host is localhost or a loopback address\n"
_NOTHING_HERE: Final = "there is /metrics here; /livez and /readyz are where --observe says\n"


class MetricsEndpoint:
    """Serves a text while its block runs. On one loop."""

    def __init__(self, address: str, text: Callable[[], str]) -> None:
        """Listens nowhere yet.

        Args:
            address: HOST:PORT; 0 takes a free one.
            text: what `/metrics` answers.
        """
        self.address = address
        self._text = text
        self._server: asyncio.Server | None = None
        self._exchanges: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Listens from now on.

        Raises:
            BindError: the address can't be listened on.
        """
        host, _, port = self.address.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._accept, host.strip("[]"), int(port), limit=MAX_HEAD_BYTES, backlog=MAX_CONNECTIONS
            )
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise BindError(f"cannot listen on {self.address} for metrics: {reason}") from None
        self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes everything."""
        if self._server is not None:
            self._server.close()
        for exchange in tuple(self._exchanges):
            exchange.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._exchanges) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        exchange = asyncio.get_running_loop().create_task(self._exchange(reader, writer))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._exchanges.discard)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(EXCHANGE_TIMEOUT):
                async with asyncio.timeout(HEAD_TIMEOUT):
                    head = await reader.readuntil(b"\r\n\r\n")
                is_local = is_loopback_host(writer.get_extra_info("peername")[0])
                writer.write(self._answer(head.decode("latin-1"), is_local=is_local))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.transport.abort()

    def _answer(self, head: str, *, is_local: bool) -> bytes:
        request, *lines = head.split("\r\n")
        method, _, rest = request.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        hosts = [value.strip() for name, _, value in (line.partition(":") for line in lines) if name.lower() == "host"]
        if method not in {"GET", "HEAD"}:
            status, kind, text = "405 Method Not Allowed", _PLAIN, "only GET and HEAD are answered\n"
        elif is_local and not (len(hosts) == 1 and is_loopback_host(_host_of(hosts[0]))):
            status, kind, text = "403 Forbidden", _PLAIN, _NOT_LOOPBACK
        elif path != "/metrics":
            status, kind, text = "404 Not Found", _PLAIN, _NOTHING_HERE
        else:
            status, kind, text = "200 OK", CONTENT_TYPE, self._text()
        body = text.encode()
        fields = f"content-type: {kind}\r\ncontent-length: {len(body)}\r\ncache-control: no-store\r\nconnection: close"
        answer = f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode()
        return answer if method == "HEAD" else answer + body


def _host_of(authority: str) -> str:
    """A Host without its port."""
    host, separator, port = authority.rpartition(":")
    return host if separator and port.isdecimal() and not (":" in host and not host.startswith("[")) else authority
