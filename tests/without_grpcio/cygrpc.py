"""Stands in for grpcio's compiled half where there is none: on free-threaded builds, for which it has no wheels.

The Python half of grpcio (status codes, handlers, the classes that `rpc.server()` derives from, what generated code
imports) is the real one, copied from the environment of a second interpreter by `scripts/environment.py`; this file
lies in it as `grpc/_cython/cygrpc.py`. It has what that half needs to be imported and registered with, and nothing that
could carry a call: clients, and grpcio's own servers, run in the second interpreter.
"""

import itertools
from typing import NoReturn, Self


class BaseError(Exception):
    """The root of grpc.aio's exceptions."""


class AbortError(BaseError):
    """What `context.abort` raises."""


class InternalError(BaseError):
    """A mistake within grpc.aio."""


class UsageError(BaseError):
    """What a context raises that is used wrongly."""


class StatusCode:
    """The numbers behind `grpc.StatusCode`."""

    ok = 0
    cancelled = 1
    unknown = 2
    invalid_argument = 3
    deadline_exceeded = 4
    not_found = 5
    already_exists = 6
    permission_denied = 7
    resource_exhausted = 8
    failed_precondition = 9
    aborted = 10
    out_of_range = 11
    unimplemented = 12
    internal = 13
    unavailable = 14
    data_loss = 15
    unauthenticated = 16


class SslPemKeyCertPair(tuple[bytes, bytes]):
    """A private key and its certificate chain."""

    __slots__ = ()

    def __new__(cls, private_key: bytes, certificate_chain: bytes) -> Self:
        return super().__new__(cls, (private_key, certificate_chain))


def server_credentials_ssl(*credentials: object) -> object:
    """What grpcio's own server would be given."""
    return credentials


def server_certificate_config_ssl(*configuration: object) -> object:
    """What grpcio's own server would renew its certificates with."""
    return configuration


def channel_credentials_insecure() -> object:
    """What a client would be given; grpc.experimental, which grpcio-reflection imports, has one from the start."""
    return object()


class _Absent(type):
    """The type of what is not there: a class to derive from, a list of constants, or something to call."""

    _numbers = itertools.count()

    def __getattr__(cls, name: str) -> int:
        if name.startswith("__"):
            raise AttributeError(name)
        number = next(_Absent._numbers)
        setattr(cls, name, number)
        return number

    def __call__(cls, *_args: object, **_options: object) -> NoReturn:
        raise RuntimeError(
            f"grpc._cython.cygrpc.{cls.__name__} is not there: this is the Python half of grpcio, for servers. "
            "A free-threaded build has no other: run clients in the interpreter that ATOLL_CLIENT_PYTHON names"
        )


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    absent = globals()[name] = _Absent(name, (), {})
    return absent
