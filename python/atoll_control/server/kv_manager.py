"""`KvManager`: the key-value store, in memory.

Owns all namespaces. Only its own loop enters it, so it has no locks, and each call is one change: no method here awaits
between reading and writing.

Each namespace keeps its keys sorted beside the dictionary of values, so that listing a page costs what the page holds
and not what the namespace holds.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Final

import grpc
import grpc.aio

from atoll_control.api.v1 import kv_pb2, kv_pb2_grpc
from atoll_control.server import validation
from atoll_control.server.validation import first_problem, size_problem, text_problem

MAX_NAMESPACE_BYTES: Final = 256
MAX_KEY_BYTES: Final = 1024
MAX_VALUE_BYTES: Final = 1 << 20

# What a key costs beside the bytes of key and value: dictionary slot, list slot and objects, roughly, on CPython.
ENTRY_OVERHEAD_BYTES: Final = 256


@dataclass(frozen=True, kw_only=True)
class KvSettings:
    """How much is stored.

    Attributes:
        max_total_bytes: what all keys and values together may take, with an estimate of each entry's overhead.
    """

    max_total_bytes: int = 512 << 20

    def __post_init__(self) -> None:
        if self.max_total_bytes < 1:
            message = f"max_total_bytes: must be at least 1, got {self.max_total_bytes}"
            raise ValueError(message)


@dataclass(frozen=True, slots=True)
class _Entry:
    value: bytes
    revision: int


@dataclass(slots=True)
class _Namespace:
    entries: dict[bytes, _Entry] = field(default_factory=dict)
    sorted_keys: list[bytes] = field(default_factory=list)


class KvManager(kv_pb2_grpc.KvServiceServicer):
    """The module behind `KvService`. See this file's first lines for its rules."""

    def __init__(self, settings: KvSettings | None = None) -> None:
        """Makes an empty store."""
        self._settings = settings or KvSettings()
        self._namespaces: dict[str, _Namespace] = {}
        self._revision = 0
        self._total_bytes = 0

    async def Put(
        self,
        request: kv_pb2.PutRequest,
        context: grpc.aio.ServicerContext[kv_pb2.PutRequest, kv_pb2.PutResponse],
    ) -> kv_pb2.PutResponse:
        """Stores a value."""
        problem = first_problem(
            _address_problem(request.namespace, request.key),
            size_problem("value", len(request.value), MAX_VALUE_BYTES),
        )
        if problem is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        namespace = self._namespaces.get(request.namespace)
        entry = None if namespace is None else namespace.entries.get(request.key)
        if entry is not None and not request.overwrite:
            return kv_pb2.PutResponse(added=False, revision=entry.revision)
        growth = len(request.value)
        growth += _entry_bytes(request.key) if entry is None else -len(entry.value)
        if growth > 0 and self._total_bytes + growth > self._settings.max_total_bytes:
            full = (
                f"the store is full: it holds {self._total_bytes:,} of at most {self._settings.max_total_bytes:,} "
                f"bytes and this call would add {growth:,}; delete keys, or raise the limit"
            )
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, full)
        if namespace is None:
            namespace = self._namespaces[request.namespace] = _Namespace()
        if entry is None:
            bisect.insort(namespace.sorted_keys, request.key)
        self._revision += 1
        self._total_bytes += growth
        namespace.entries[request.key] = _Entry(request.value, self._revision)
        return kv_pb2.PutResponse(added=entry is None, revision=self._revision)

    async def Get(
        self,
        request: kv_pb2.GetRequest,
        context: grpc.aio.ServicerContext[kv_pb2.GetRequest, kv_pb2.GetResponse],
    ) -> kv_pb2.GetResponse:
        """Reads a value."""
        if (problem := _address_problem(request.namespace, request.key)) is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        namespace = self._namespaces.get(request.namespace)
        entry = None if namespace is None else namespace.entries.get(request.key)
        if entry is None:
            missing = f"namespace {request.namespace!r} has no key {request.key!r}"
            await context.abort(grpc.StatusCode.NOT_FOUND, missing)
        return kv_pb2.GetResponse(value=entry.value, revision=entry.revision)

    async def Delete(
        self,
        request: kv_pb2.DeleteRequest,
        context: grpc.aio.ServicerContext[kv_pb2.DeleteRequest, kv_pb2.DeleteResponse],
    ) -> kv_pb2.DeleteResponse:
        """Removes a key."""
        if (problem := _address_problem(request.namespace, request.key)) is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        namespace = self._namespaces.get(request.namespace)
        entry = None if namespace is None else namespace.entries.pop(request.key, None)
        if namespace is None or entry is None:
            return kv_pb2.DeleteResponse(deleted=False, revision=self._revision)
        del namespace.sorted_keys[bisect.bisect_left(namespace.sorted_keys, request.key)]
        if not namespace.entries:
            del self._namespaces[request.namespace]
        self._revision += 1
        self._total_bytes -= _entry_bytes(request.key) + len(entry.value)
        return kv_pb2.DeleteResponse(deleted=True, revision=self._revision)

    async def Keys(
        self,
        request: kv_pb2.KeysRequest,
        context: grpc.aio.ServicerContext[kv_pb2.KeysRequest, kv_pb2.KeysResponse],
    ) -> kv_pb2.KeysResponse:
        """Lists keys by prefix, a page at a time."""
        problem = first_problem(
            text_problem("namespace", request.namespace, MAX_NAMESPACE_BYTES),
            size_problem("prefix", len(request.prefix), MAX_KEY_BYTES),
            size_problem("start_after", len(request.start_after), MAX_KEY_BYTES),
            validation.limit_problem(request.limit),
        )
        if problem is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        namespace = self._namespaces.get(request.namespace)
        if namespace is None:
            return kv_pb2.KeysResponse(revision=self._revision)
        limit = request.limit or validation.DEFAULT_PAGE
        keys = namespace.sorted_keys
        begin = bisect.bisect_left(keys, request.prefix)
        if request.start_after:
            begin = max(begin, bisect.bisect_right(keys, request.start_after))
        page: list[bytes] = []
        size = 0
        more = False
        for position in range(begin, len(keys)):
            key = keys[position]
            if not key.startswith(request.prefix):
                break
            if len(page) == limit or size >= validation.MAX_PAGE_BYTES:
                more = True
                break
            page.append(key)
            size += len(key)
        return kv_pb2.KeysResponse(keys=page, more=more, revision=self._revision)


def _address_problem(namespace: str, key: bytes) -> str | None:
    return first_problem(
        text_problem("namespace", namespace, MAX_NAMESPACE_BYTES),
        None if key else "key: is required",
        size_problem("key", len(key), MAX_KEY_BYTES),
    )


def _entry_bytes(key: bytes) -> int:
    return len(key) + ENTRY_OVERHEAD_BYTES
