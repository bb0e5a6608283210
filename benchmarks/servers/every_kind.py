"""The handlers that both servers of all four kinds of call share, written as for grpc.aio."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from benchmarks.protos import EchoMessage


class Echo:
    """The unary echo."""

    def __init__(self, make_reply: Callable[..., EchoMessage]) -> None:
        self._make_reply = make_reply

    async def Say(self, request: EchoMessage, _context: object) -> EchoMessage:
        return self._make_reply(sequence=request.sequence, text=request.text)


class Streams:
    """The streaming methods but ``Watch``, which each server broadcasts in its own way."""

    def __init__(self, make_reply: Callable[..., EchoMessage]) -> None:
        self._make_reply = make_reply

    async def Deliver(self, request: EchoMessage, _context: object) -> AsyncIterator[EchoMessage]:
        for _ in range(request.sequence):
            yield self._make_reply(sequence=request.sequence, text=request.text)

    async def Collect(self, requests: AsyncIterator[EchoMessage], _context: object) -> EchoMessage:
        count = 0
        async for _ in requests:
            count += 1
        # The length of the reply is what proves to the client that all requests were read.
        return self._make_reply(sequence=count, text="." * count)

    async def Converse(self, requests: AsyncIterator[EchoMessage], _context: object) -> AsyncIterator[EchoMessage]:
        async for request in requests:
            yield self._make_reply(sequence=request.sequence, text=request.text)
