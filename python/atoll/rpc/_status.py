"""gRPC's status codes and compressions, for services that do without grpcio."""

import enum
from typing import Protocol


class StatusCode(enum.IntEnum):
    """How a call ended. Numbers and meanings are gRPC's (`doc/statuscodes.md`)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Compression(enum.IntEnum):
    """How messages are compressed: `grpc.Compression`."""

    NoCompression = 0
    Deflate = 1
    Gzip = 2


class GrpcStatusCode(Protocol):
    """A member of `grpc.StatusCode`, whose value is a number and a text."""

    @property
    def value(self) -> object:
        """The number and the text."""


Code = StatusCode | int | GrpcStatusCode


def code_number(code: Code) -> int:
    """The number of a code, whether it is ours, grpcio's or a number already.

    Raises:
        TypeError: When it is none of these.
        ValueError: When the number is not one of gRPC's.
    """
    number: object = code
    if not isinstance(code, int):
        number = getattr(code, "value", None)
        if isinstance(number, tuple) and number:
            number = number[0]
    if not isinstance(number, int):
        raise TypeError(
            f"{code!r} is no status code: write grpc.StatusCode.NOT_FOUND, or atoll.rpc.StatusCode.NOT_FOUND"
        )
    return int(StatusCode(number))
