"""The echo service's generated code: made for each run in a temporary directory, with the installed grpcio-tools.

Nothing generated is committed, so the code always fits the protobuf and grpcio that are being measured.
"""

from __future__ import annotations

import importlib
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

PATH: Final = "/atoll.benchmarks.Echo/Say"
"""The HTTP/2 path of the unary method."""
STREAMS: Final = "/atoll.benchmarks.Streams/"
"""The HTTP/2 path of the streaming methods, without their names."""

SEQUENCE: Final = 7
TEXT: Final = "a small message as control planes send it: a key, a node's id, a few numbers...".ljust(81, ".")


class EchoMessage(Protocol):
    """What requests and replies have in common."""

    sequence: int
    text: str

    def SerializeToString(self) -> bytes:  # noqa: N802 -- protobuf's name
        """Encode the message."""
        ...


@dataclass(frozen=True, slots=True)
class EchoProtos:
    """The generated names that the servers and the client use."""

    request: Callable[..., EchoMessage]
    reply: Callable[..., EchoMessage]
    add_to_server: Callable[[object, object], None]
    stub: Callable[[object], Any]
    add_streams_to_server: Callable[[object, object], None]
    streams_stub: Callable[[object], Any]


def generate(directory: Path) -> None:
    """Write ``echo_pb2.py`` and ``echo_pb2_grpc.py`` into ``directory``.

    Raises:
        RuntimeError: protoc failed; its message is on stderr.
    """
    from grpc_tools import protoc  # noqa: PLC0415 -- only the parent process needs the compiler

    source = Path(__file__).parent
    arguments = ["protoc", f"-I{source}", f"--python_out={directory}", f"--grpc_python_out={directory}", "echo.proto"]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc could not compile {source / 'echo.proto'}")


def load(directory: Path) -> EchoProtos:
    """Import what ``generate`` wrote into ``directory``."""
    sys.path.insert(0, str(directory))
    messages = importlib.import_module("echo_pb2")
    services = importlib.import_module("echo_pb2_grpc")
    return EchoProtos(
        request=messages.EchoRequest,
        reply=messages.EchoReply,
        add_to_server=services.add_EchoServicer_to_server,
        stub=services.EchoStub,
        add_streams_to_server=services.add_StreamsServicer_to_server,
        streams_stub=services.StreamsStub,
    )


def frame(message: bytes) -> bytes:
    """Put gRPC's five-byte prefix (not compressed, length) before an encoded message."""
    return struct.pack(">BI", 0, len(message)) + message
