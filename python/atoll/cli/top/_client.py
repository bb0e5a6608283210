"""Asks an endpoint over HTTP, with the standard library: one question at a time. Any thread may `cancel()` it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from atoll.cli.top._snapshot import Top

VERSION = 1
TIMEOUT = 5.0

_OK = 200
_HIGHEST_PORT = 65535
# A process with a thousand loops stays far below it.
_LONGEST_ANSWER = 64 << 20


class Unavailable(Exception):  # noqa: N818 - it says what is the case
    """The address gave no answer that can be shown; the message says why, and what would help.

    Attributes:
        what: The message without what would help.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what = what


class Client:
    """Asks the endpoint at an address.

    Args:
        address: `host:port`, `[v6]:port` or `unix:/path`; an `http://` before and a path behind are ignored.
        timeout: Seconds that each step may take.

    Raises:
        ValueError: When it is no such address.
    """

    def __init__(self, address: str, timeout: float = TIMEOUT) -> None:
        self.address, self._target = _parse(address)
        self._timeout = timeout
        self._connection: http.client.HTTPConnection | None = None
        self._cancelled = False

    def top(self) -> Top:
        """What the process's loops are doing now.

        Raises:
            Unavailable: When there is no answer, or one that can't be shown.
        """
        connection = _Connection(self._target, self._timeout)
        self._connection = connection
        try:
            if self._cancelled:
                raise Unavailable("stopped", "start it again")
            connection.request("GET", "/top", headers={"Accept": "application/json"})
            response = connection.getresponse()
            body = response.read(_LONGEST_ANSWER)
        except TimeoutError:
            raise Unavailable(
                f"{self.address} does not answer within {self._timeout:g} s",
                "its process is stopped, or something else listens there",
            ) from None
        except http.client.RemoteDisconnected:
            raise Unavailable(
                f"{self.address} closes the connection without an answer",
                "its process is ending, or it is no endpoint of Atoll's",
            ) from None
        except PermissionError:
            raise Unavailable(
                f"you may not connect to {self.address}", "it is for its process's own user; become that user"
            ) from None
        except OSError as error:
            why = error.strerror or str(error)
            raise Unavailable(
                f"nothing answers at {self.address} ({why})",
                f"start the service with ATOLL_OBSERVE={self.address}, and look at its log for where it listens",
            ) from None
        except http.client.HTTPException:
            raise _not_ours(self.address) from None
        finally:
            self._connection = None
            connection.close()
        if response.status != _OK:
            said = body[:200].decode(errors="replace").strip()
            raise Unavailable(f"{self.address} answers {response.status}", said)
        return _checked(self.address, body)

    def cancel(self) -> None:
        """Has a question that waits for its answer fail at once, and every later one. Any thread."""
        self._cancelled = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)


class _Connection(http.client.HTTPConnection):
    """A connection over TCP, or to a Unix socket."""

    def __init__(self, target: tuple[str, int] | str, timeout: float) -> None:
        host, port = ("localhost", None) if isinstance(target, str) else target
        super().__init__(host, port, timeout=timeout)
        self._path = target if isinstance(target, str) else None

    def connect(self) -> None:
        if self._path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _checked(address: str, body: bytes) -> Top:
    try:
        answer: Any = json.loads(body)
        version = answer["version"]
        loops = answer["loops"]
    except (ValueError, TypeError, KeyError):
        raise _not_ours(address) from None
    if version != VERSION or not isinstance(loops, list):
        raise Unavailable(
            f"{address} speaks version {version!r} of this protocol and this atoll speaks {VERSION}",
            "use the atoll of the environment that the process runs in",
        )
    return cast("Top", answer)


def _not_ours(address: str) -> Unavailable:
    return Unavailable(
        f"what answers at {address} is no endpoint of Atoll's", "look at the service's log for where it listens"
    )


def _parse(text: str) -> tuple[str, tuple[str, int] | str]:
    """The address as it is shown, and where to connect."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        path = f"/{path.lstrip('/')}" if path.startswith("//") else path
        if not path or "\0" in path:
            raise ValueError(f"{text!r} has no path: write unix:/run/atoll.sock")
        return f"unix:{path}", path
    address = text.removeprefix("http://").partition("/")[0]
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or not (port.isascii() and port.isdecimal()) or not 0 < int(port) <= _HIGHEST_PORT:
        raise ValueError(f"{text!r} is not an address: write 127.0.0.1:9464, [::1]:9464 or unix:/run/atoll.sock")
    if ":" in bare and bare == host:
        raise ValueError(f"{text!r} is not an address: an IPv6 address needs brackets, as in [::1]:9464")
    return address, (bare, int(port))
