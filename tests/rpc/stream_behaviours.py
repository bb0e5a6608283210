"""A servicer with one streaming method per way of using a call, for `behaviours_server.py`.

`test_streams_like_grpc_aio.py` compares what the clients of stock grpc.aio and of Atoll see, and what the handlers of
both noted.
"""

# Handlers take what they don't need, and are coroutines and generators without need.
# ruff: noqa: ARG002

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import grpc
import grpc.aio

SERVICE = "atoll.tests.v1.StreamBehaviours"
RECEIVE_LIMIT = 5_000_000
SEND_LIMIT = 4_500_000
MEGABYTE = 1_000_000

# What handlers note, by the call's metadata "key".
notes: dict[str, list[object]] = {}


def note(context: Any, *values: object) -> None:
    key = next(value for key, value in context.invocation_metadata() if key == "key")
    notes.setdefault(key, []).extend(values)


def _said(*values: object) -> bytes:
    return repr(values).encode()


def _name(error: BaseException | None) -> str:
    """The classes that handlers catch errors by, whatever their exact one is."""
    for known in (asyncio.CancelledError, grpc.aio.UsageError, grpc.aio.AbortError, GeneratorExit):
        if isinstance(error, known):
            return known.__name__
    return type(error).__name__


def _refuse_bad(data: Any) -> bytes:
    if data == b"bad":
        raise ValueError("not to this converter's liking")
    return bytes(data)


class UnaryStream:
    """One request, several replies."""

    # Async generators.

    async def GenThree(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%s%d" % (request, number)

    async def GenThreeAfterAwaits(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(3):
            await asyncio.sleep(0.01)
            yield b"%s%d" % (request, number)

    async def GenManySmall(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(5000):
            yield b"%d" % number

    async def GenNothing(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for message in list[bytes]():
            yield message

    async def GenEmptyMessages(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b""

    async def GenLarge(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"a" * 4 * MEGABYTE
        yield b""
        yield b"b" * 4 * MEGABYTE

    async def GenTooLarge(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        yield bytes(SEND_LIMIT)
        await asyncio.sleep(0.05)
        yield bytes(SEND_LIMIT + 1)
        yield b"never"

    async def GenAbortFirst(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.NOT_FOUND, "nothing", (("where", "there"),))
        yield b"never"

    async def GenAbortInTheMiddle(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        yield b"second"
        await context.abort(grpc.StatusCode.NOT_FOUND, "no third", (("where", "there"),))
        yield b"never"

    async def GenAbortSuppressed(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        with contextlib.suppress(Exception):
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        yield b"never"

    async def GenAbortBehindLargeMessages(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(MEGABYTE)
        await context.abort(grpc.StatusCode.NOT_FOUND, "no more")

    async def GenCodeFirst(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        context.set_details("the details")
        yield b"first"

    async def GenCodeAtTheEnd(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        context.set_details("the details")

    async def GenCodeOk(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        context.set_code(grpc.StatusCode.OK)
        context.set_details("all is well")

    async def GenCodeTakenBack(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        yield b"first"
        context.set_code(grpc.StatusCode.OK)

    async def GenTrailingMetadata(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        context.set_trailing_metadata((("first", "1"),))
        yield b"first"
        context.set_trailing_metadata((("second", "2"), ("raw-bin", b"\x00\xff")))

    async def GenInitialMetadata(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("early", "bird"),))
        yield b"first"

    async def GenInitialMetadataOnly(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("early", "bird"),))
        for message in list[bytes]():
            yield message

    async def GenInitialMetadataLate(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        try:
            await context.send_initial_metadata((("late", "bird"),))
        except grpc.aio.UsageError:
            yield b"refused"

    async def GenRaiseFirst(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        if request:
            raise KeyError("a key")
        yield b"never"

    async def GenRaiseInTheMiddle(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        context.set_trailing_metadata((("where", "there"),))
        yield b"first"
        raise KeyError("a key")

    async def GenCodeThenRaise(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        raise ValueError("there is one")

    async def GenYieldsNone(self, request: bytes, context: Any) -> AsyncIterator[Any]:
        yield b"first"
        yield None
        yield b"last"

    async def GenYieldsText(self, request: bytes, context: Any) -> AsyncIterator[Any]:
        yield b"first"
        yield "text"

    async def GenYieldsANumber(self, request: bytes, context: Any) -> AsyncIterator[Any]:
        yield b"first"
        yield 17

    async def GenBadReply(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        yield b"bad"
        yield b"never"

    async def GenReadsAlthoughUnary(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield _said(await context.read() is grpc.aio.EOF)

    async def GenWritesAsWell(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.write(b"written")
        yield b"yielded"
        await context.write(b"written")

    async def GenDoneAndCancelled(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield _said(context.done(), context.cancelled())
        yield _said(context.done(), context.cancelled())

    async def GenTimeRemaining(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(2):
            yield _said(0 < context.time_remaining() < 21)

    async def GenDoneCallback(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        context.add_done_callback(lambda context: note(context, "callback", context.done(), context.cancelled(), "end"))
        yield b"first"
        note(context, "last step")

    async def GenCallbackAfterAbort(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        context.add_done_callback(lambda context: note(context, "callback", context.done(), context.cancelled(), "end"))
        yield b"first"
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    async def GenWaits(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Until it is cancelled."""
        try:
            yield b"first"
            # One that is cancelled before it gets here is closed, not cancelled.
            note(context, "waits")
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            note(context, _name(error), "end")
            raise

    async def GenFloods(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Until the client does not take more, or has gone."""
        try:
            while True:
                yield bytes(MEGABYTE)
        finally:
            note(context, "finally", "end")

    # Coroutines that write.

    async def CoroThree(self, request: bytes, context: Any) -> None:
        for number in range(3):
            await context.write(b"%s%d" % (request, number))

    async def CoroNothing(self, request: bytes, context: Any) -> None:
        pass

    async def CoroReturnsSomething(self, request: bytes, context: Any) -> bytes:
        await context.write(b"written")
        return b"is dropped"

    async def CoroAbortInTheMiddle(self, request: bytes, context: Any) -> None:
        await context.write(b"first")
        await context.abort(grpc.StatusCode.NOT_FOUND, "no second")

    async def CoroRaiseInTheMiddle(self, request: bytes, context: Any) -> None:
        await context.write(b"first")
        raise KeyError("a key")

    async def CoroCodeAtTheEnd(self, request: bytes, context: Any) -> None:
        await context.write(b"first")
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)

    async def CoroWritesAfterAbort(self, request: bytes, context: Any) -> None:
        with contextlib.suppress(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        try:
            await context.write(b"late")
        except Exception as error:
            note(context, _name(error), "end")
            raise

    async def CoroWritesAfterTheEnd(self, request: bytes, context: Any) -> None:
        ended = asyncio.Event()
        context.add_done_callback(lambda _: ended.set())

        async def write() -> None:
            await ended.wait()
            try:
                await context.write(b"late")
            except Exception as error:  # noqa: BLE001 - whatever it is
                note(context, _name(error))
            note(context, "end")

        await context.write(b"first")
        self.writing = asyncio.ensure_future(write())

    async def CoroBadReplyCaught(self, request: bytes, context: Any) -> None:
        await context.write(b"first")
        with contextlib.suppress(ValueError):
            await context.write(b"bad")
        await context.write(b"last")

    async def CoroInitialMetadataLate(self, request: bytes, context: Any) -> None:
        await context.write(b"first")
        try:
            await context.send_initial_metadata((("late", "bird"),))
        except grpc.aio.UsageError:
            await context.write(b"refused")

    async def CoroWritesFromTasks(self, request: bytes, context: Any) -> None:
        async def write() -> None:
            for _ in range(3):
                await context.write(b"m")
                await asyncio.sleep(0)

        await asyncio.gather(write(), write())

    # Plain functions, on the thread pool.

    def DefThree(self, request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(3):
            yield b"%s%d" % (request, number)

    def DefNothing(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield from ()

    def DefReturnsAList(self, request: bytes, context: Any) -> list[bytes]:
        return [request, request]

    def DefReturnsNone(self, request: bytes, context: Any) -> None:
        return None

    def DefAbortInTheMiddle(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield b"first"
        time.sleep(0.1)  # grpc.aio's abort overtakes messages of the same thread
        context.abort(grpc.StatusCode.NOT_FOUND, "no second", (("where", "there"),))

    def DefRaiseFirst(self, request: bytes, context: Any) -> Iterator[bytes]:
        raise KeyError("a key")

    def DefRaiseInTheMiddle(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield b"first"
        raise KeyError("a key")

    def DefCodeAtTheEnd(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield b"first"
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        context.set_details("the details")
        context.set_trailing_metadata((("where", "there"),))

    def DefInitialMetadata(self, request: bytes, context: Any) -> Iterator[bytes]:
        context.send_initial_metadata((("early", "bird"),))
        yield b"first"

    def DefYieldsANumber(self, request: bytes, context: Any) -> Iterator[Any]:
        yield b"first"
        yield 17

    def DefLarge(self, request: bytes, context: Any) -> Iterator[bytes]:
        for _ in range(3):
            yield bytes(4 * MEGABYTE)

    def DefOnAnotherThread(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield _said(threading.current_thread() is threading.main_thread())

    def DefTimeRemaining(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield _said(0 < context.time_remaining() < 21)


class StreamUnary:
    """Several requests, one reply."""

    async def IterCollect(self, requests: Any, context: Any) -> bytes:
        return b",".join([request async for request in requests])

    async def IterNothingRead(self, requests: Any, context: Any) -> bytes:
        return b"done"

    async def IterFirstOnly(self, requests: Any, context: Any) -> bytes:
        async for request in requests:
            return b"got " + bytes(request)
        return b"none"

    async def IterTwice(self, requests: Any, context: Any) -> bytes:
        first = [request async for request in requests]
        second = [request async for request in requests]
        return _said(len(first), len(second))

    async def IterByHand(self, requests: Any, context: Any) -> bytes:
        first = await anext(requests)
        rest = [request async for request in requests]
        return _said(first, rest, await anext(requests, b"default"))

    async def IterAndRead(self, requests: Any, context: Any) -> bytes:
        first = await anext(requests)
        second = await context.read()
        return _said(first, second, [request async for request in requests])

    async def IterSizes(self, requests: Any, context: Any) -> bytes:
        return _said([len(request) async for request in requests])

    async def IterAbortInTheMiddle(self, requests: Any, context: Any) -> bytes:
        await anext(requests)
        await context.abort(grpc.StatusCode.NOT_FOUND, "enough")
        return b"never"

    async def IterRaiseInTheMiddle(self, requests: Any, context: Any) -> bytes:
        async for request in requests:
            raise KeyError(request)
        return b"never"

    async def IterCode(self, requests: Any, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        context.set_details("the details")
        context.set_trailing_metadata((("where", "there"),))
        return b"".join([request async for request in requests])

    async def IterInitialMetadata(self, requests: Any, context: Any) -> bytes:
        await context.send_initial_metadata((("early", "bird"),))
        return b"".join([request async for request in requests])

    async def IterReturnsNone(self, requests: Any, context: Any) -> Any:
        async for _ in requests:
            pass

    async def IterReturnsANumber(self, requests: Any, context: Any) -> Any:
        return 17

    async def IterWritesTheReply(self, requests: Any, context: Any) -> bytes:
        await context.write(b"written")
        return b"returned"

    async def IterBadRequest(self, requests: Any, context: Any) -> bytes:
        return b",".join([request async for request in requests])

    async def IterWaits(self, requests: Any, context: Any) -> bytes:
        try:
            async for request in requests:
                note(context, request)
                await context.send_initial_metadata(())
        except asyncio.CancelledError as error:
            note(context, _name(error), "end")
            raise
        note(context, "end of requests", "end")
        return b"done"

    async def CoroCollect(self, requests: Any, context: Any) -> bytes:
        collected = []
        while (request := await context.read()) is not grpc.aio.EOF:
            collected.append(request)
        return b",".join(collected)

    async def CoroReadAfterTheEnd(self, requests: Any, context: Any) -> bytes:
        while await context.read() is not grpc.aio.EOF:
            pass
        return _said(*[await context.read() is grpc.aio.EOF for _ in range(3)])

    async def CoroReadAfterAbort(self, requests: Any, context: Any) -> bytes:
        with contextlib.suppress(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        try:
            await context.read()
        except Exception as error:
            note(context, _name(error), "end")
            raise
        return b"never"

    async def CoroBadRequestCaught(self, requests: Any, context: Any) -> bytes:
        seen: list[object] = []
        while True:
            try:
                request = await context.read()
            except ValueError as error:
                seen.append(_name(error))
                continue
            if request is grpc.aio.EOF:
                return _said(*seen)
            seen.append(request)

    async def CoroWaits(self, requests: Any, context: Any) -> bytes:
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                note(context, request)
                await context.send_initial_metadata(())
        except asyncio.CancelledError as error:
            note(context, _name(error), "end")
            raise
        note(context, "end of requests", "end")
        return b"done"

    async def CoroReadWithATimeout(self, requests: Any, context: Any) -> bytes:
        """A reader that gives up takes no message with it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        return _said(await context.read(), await context.read())

    def DefCollect(self, requests: Iterable[bytes], context: Any) -> bytes:
        return b",".join(requests)

    def DefFirstOnly(self, requests: Iterable[bytes], context: Any) -> bytes:
        for request in requests:
            return b"got " + request
        return b"none"

    def DefNothingRead(self, requests: Iterable[bytes], context: Any) -> bytes:
        return b"done"

    def DefRaise(self, requests: Iterable[bytes], context: Any) -> bytes:
        for request in requests:
            raise KeyError(request)
        return b"never"

    def DefAbort(self, requests: Iterable[bytes], context: Any) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, f"after {len(list(requests))}")
        return b"never"


class StreamStream:
    """Several requests, several replies."""

    async def GenEcho(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield b"echo " + bytes(request)

    async def GenGreetsFirst(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"hello"
        async for request in requests:
            yield bytes(request)
        yield b"bye"

    async def GenAfterHalfClose(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        count = len([request async for request in requests])
        for number in range(count):
            yield b"%d" % number

    async def GenIgnoresRequests(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number

    async def GenAbortInTheMiddle(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield bytes(request)
            await context.abort(grpc.StatusCode.NOT_FOUND, "enough")

    async def GenRaiseInTheMiddle(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield bytes(request)
            raise KeyError("a key")

    async def GenBadRequest(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield bytes(request)

    async def GenWaits(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        try:
            async for request in requests:
                yield bytes(request)
        except asyncio.CancelledError as error:
            note(context, _name(error), "end")
            raise

    async def GenCallbackWhenCancelled(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        context.add_done_callback(lambda context: note(context, "callback", "end"))
        async for request in requests:
            yield bytes(request)

    async def IterEcho(self, requests: Any, context: Any) -> None:
        async for request in requests:
            await context.write(b"echo " + bytes(request))

    async def CoroEcho(self, requests: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(b"echo " + request)

    async def CoroBothAtOnce(self, requests: Any, context: Any) -> None:
        """Full duplex: reads in one task, writes in another."""
        sizes: asyncio.Queue[int | None] = asyncio.Queue()

        async def read() -> None:
            while (request := await context.read()) is not grpc.aio.EOF:
                sizes.put_nowait(len(request))
            sizes.put_nowait(None)

        async def write() -> None:
            while (size := await sizes.get()) is not None:
                await context.write(b"%d" % size)

        await asyncio.gather(read(), write())

    def DefEcho(self, requests: Iterable[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield b"echo " + request

    def DefIgnoresRequests(self, requests: Iterable[bytes], context: Any) -> Iterator[bytes]:
        yield b"first"
        yield b"second"

    def DefAfterHalfClose(self, requests: Iterable[bytes], context: Any) -> Iterator[bytes]:
        yield b"%d" % len(list(requests))


async def _notes(request: bytes, context: Any) -> bytes:  # noqa: ARG001
    """What the handler of the call with this key has noted until it noted its end, or the word after the key."""
    key, _, awaited = request.decode().partition(" ")
    noted = notes.setdefault(key, [])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while (awaited or "end") not in noted:  # noqa: ASYNC110 - a handler may be on any thread
                await asyncio.sleep(0.01)
    return _said(*noted)


KINDS = {
    UnaryStream: grpc.unary_stream_rpc_method_handler,
    StreamUnary: grpc.stream_unary_rpc_method_handler,
    StreamStream: grpc.stream_stream_rpc_method_handler,
}


def names(servicer: type) -> list[str]:
    return [name for name in vars(servicer) if not name.startswith("_")]


def handlers() -> dict[str, Any]:
    made: dict[str, Any] = {"Notes": grpc.unary_unary_rpc_method_handler(_notes)}
    for kind, make in KINDS.items():
        servicer = kind()
        for name in names(kind):
            converters = (
                _refuse_bad if "BadRequest" in name else None,
                _refuse_bad if "BadReply" in name else None,
            )
            made[f"{kind.__name__}.{name}"] = make(getattr(servicer, name), *converters)
    return made


OPTIONS = (("grpc.max_receive_message_length", RECEIVE_LIMIT), ("grpc.max_send_message_length", SEND_LIMIT))
