"""What the tests of the client put between it and a server: a standby, and a connection that breaks when told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STREAMS = ("/atoll.v1.WatchService/Watch",)


class Standby(grpc.GenericRpcHandler):
    """Answers every call as a server that does not lead; the token and the paths that it has seen."""

    def __init__(self, leader: str = "", metadata: tuple[tuple[str, str], ...] = (("atoll-not-done", "1"),)) -> None:
        self.leader = leader
        self.calls: list[str] = []
        self.tokens: list[Any] = []
        self._metadata = metadata
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        self.calls.append(method)
        self.tokens.append(dict(handler_call_details.invocation_metadata or ()).get("authorization"))
        if method in STREAMS:
            return grpc.stream_stream_rpc_method_handler(self._refuse)
        return grpc.unary_unary_rpc_method_handler(self._refuse)

    def _refuse(self, _request: Any, context: grpc.ServicerContext) -> Any:
        metadata = (("atoll-leader", self.leader),) if self.leader else self._metadata
        context.set_trailing_metadata(metadata)
        context.abort(grpc.StatusCode.UNAVAILABLE, "this server does not lead")

    def close(self) -> None:
        self._server.stop(None).wait()


@contextlib.contextmanager
def standby(leader: str = "", **options: Any) -> Iterator[Standby]:
    server = Standby(leader, **options)
    try:
        yield server
    finally:
        server.close()


class Proxy:
    """Passes bytes on between a client and a server.

    Attributes:
        upstream: where the server listens; may change.
        refuses: connections are closed as they are made.
        is_frozen: nothing is passed on, and nothing is closed.
        loses_answer_to: once the client has said this, its connection breaks before it is answered. The server's does
            not, so that it does what it was asked to do. Once only.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.refuses = False
        self.is_frozen = False
        self.loses_answer_to: bytes | None = None
        self._unanswered: set[socket.socket] = set()
        self.connections = 0
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def _run(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            host, port = self.upstream.rsplit(":", 1)
            try:
                if self.refuses:
                    raise ConnectionRefusedError
                server = socket.create_connection((host, int(port)))
            except OSError:
                client.close()
                continue
            self.connections += 1
            with self._lock:
                self._sockets |= {client, server}
            self._run(self._pass_on, client, server)
            self._run(self._pass_back, server, client)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.loses_answer_to is not None and self.loses_answer_to in data:
                    self.loses_answer_to = None
                    self._unanswered.add(server)
                if not self.is_frozen:
                    server.sendall(data)
        if server not in self._unanswered:
            self._shut(server)

    def _pass_back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if server in self._unanswered:
                    self._shut(client)
                elif not self.is_frozen:
                    client.sendall(data)
        self._shut(client)
        self._shut(server)

    def _shut(self, it: socket.socket) -> None:
        with contextlib.suppress(OSError):
            it.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Breaks all connections."""
        with self._lock:
            sockets = list(self._sockets)
        for each in sockets:
            self._shut(each)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()


@contextlib.contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    between = Proxy(upstream)
    try:
        yield between
    finally:
        between.close()
