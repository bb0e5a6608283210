"""Opens connections, makes calls on each and holds them: ``python -m benchmarks.holder SCHEME PORT PATH BODY``.

Lines on the standard input: ``open CONNECTIONS CALLS`` opens that many more connections with that many calls on each,
``counts`` asks what has come back so far. Both are answered with the counts over all connections.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import Final

from benchmarks.frames import ConnectionLostError, Counts, Parser, call, opening

_CONNECT_TIMEOUT: Final = 30.0
_RECEIVED_AT_A_TIME: Final = 1 << 16


class Holder:
    """All connections to one port. One thread opens them, another reads."""

    def __init__(self, scheme: str, port: int, path: str, body: bytes) -> None:
        """Prepare to call ``path``."""
        self._scheme, self._port, self._path, self._body = scheme, port, path, body
        self._counts = Counts()
        self._opened = 0
        self._error: str | None = None
        self._selector = selectors.DefaultSelector()
        self._tls = ssl.create_default_context()
        # The benchmark made the certificate itself, for itself.
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        self._tls.set_alpn_protocols(["h2"])

    def open(self, connections: int, calls: int) -> None:
        """Open connections and make the calls; does not wait for replies."""
        for _ in range(connections):
            connection: socket.socket = socket.create_connection(("127.0.0.1", self._port), _CONNECT_TIMEOUT)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._scheme == "https":
                connection = self._tls.wrap_socket(connection)
            streams = range(1, 2 * calls, 2)
            made = [call(stream, self._scheme, self._path, self._body) for stream in streams]
            connection.sendall(opening() + b"".join(made))
            connection.settimeout(0.0)
            self._selector.register(connection, selectors.EVENT_READ, Parser(self._counts))
            self._opened += 1

    def read(self) -> None:
        """Read from all connections until one is lost."""
        try:
            while True:
                for key, _ in self._selector.select(0.05):
                    connection, parser = key.fileobj, key.data
                    assert isinstance(connection, socket.socket)
                    self._receive(connection, parser)
        except (ConnectionLostError, OSError) as error:
            self._error = f"{type(error).__name__}: {error}"

    def counts(self) -> dict[str, object]:
        """Return what happened so far."""
        counts = self._counts
        opened, error = self._opened, self._error
        return {"connections": opened, "data_bytes": counts.data_bytes, "ended": counts.ended, "error": error}

    def _receive(self, connection: socket.socket, parser: Parser) -> None:
        # TLS may have more than the kernel says.
        while True:
            try:
                content = connection.recv(_RECEIVED_AT_A_TIME)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            if not content:
                raise ConnectionLostError("the server closed a connection")
            answer = parser.feed(content)
            if answer:
                connection.sendall(answer)
            if not isinstance(connection, ssl.SSLSocket):
                return


def main() -> None:
    """Do as the lines on the standard input say, until it ends."""
    scheme, port, path, body = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    holder = Holder(scheme, int(port), path, Path(body).read_bytes())
    threading.Thread(target=holder.read, name="reader", daemon=True).start()
    _say(ready=True)
    for line in sys.stdin:
        match line.split():
            case ["open", connections, calls]:
                holder.open(int(connections), int(calls))
                _say(**holder.counts())
            case ["counts"]:
                _say(**holder.counts())
            case _:
                _say(error=f"unknown request: {line.strip()}")
    # The benchmark is over or gone; ten thousand calls need no orderly end.
    os._exit(0)


def _say(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
