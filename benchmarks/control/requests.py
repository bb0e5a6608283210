"""The calls that both servers of the KV benchmark get: the same keys and values, each in its server's own protobuf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

NAMESPACE: Final = "benchmark"
VALUE: Final = b"v" * 100
_CONTINUES: Final = 0x80


@dataclass(frozen=True, slots=True)
class Method:
    """A method, and the message for the key of a number."""

    path: str
    message: Callable[[int], bytes]


def key(number: int) -> bytes:
    """Every key has the same length."""
    return b"key-%08d" % number


def _atoll_get(number: int) -> bytes:
    return _field(1, NAMESPACE.encode()) + _field(2, key(number))


def _atoll_put(number: int) -> bytes:
    return _field(1, NAMESPACE.encode()) + _field(2, key(number)) + _field(3, VALUE) + _flag(4)


def _etcd_key(number: int) -> bytes:
    return NAMESPACE.encode() + b"/" + key(number)


def _etcd_get(number: int) -> bytes:
    return _field(1, _etcd_key(number))


def _etcd_get_serializable(number: int) -> bytes:
    return _etcd_get(number) + _flag(7)


def _etcd_put(number: int) -> bytes:
    return _field(1, _etcd_key(number)) + _field(2, VALUE)


METHODS: Final = {
    ("atoll", "put"): Method("/atoll.v1.KvService/Put", _atoll_put),
    ("atoll", "get"): Method("/atoll.v1.KvService/Get", _atoll_get),
    ("etcd", "put"): Method("/etcdserverpb.KV/Put", _etcd_put),
    ("etcd", "get"): Method("/etcdserverpb.KV/Range", _etcd_get),
    ("etcd", "stale_get"): Method("/etcdserverpb.KV/Range", _etcd_get_serializable),
}


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes or text."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _flag(number: int) -> bytes:
    """A field that is true."""
    return _varint(number << 3) + b"\x01"


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= _CONTINUES:
        encoded.append(value & 0x7F | _CONTINUES)
        value >>= 7
    return bytes([*encoded, value])
