"""A servicer with one method per way of ending a call, for `behaviours_server.py`.

`test_like_grpc_aio.py` compares what the clients of stock grpc.aio and of Atoll see.
"""

# Handlers take what they don't need.
# ruff: noqa: ARG002

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

SERVICE = "atoll.tests.v1.Behaviours"


def _identity(data: bytes) -> bytes:
    return data


def _refuse(data: object) -> bytes:
    raise ValueError(f"{data!r} is not to this converter's liking")


def _said(*values: object) -> bytes:
    return repr(values).encode()


class Coroutines:
    """`async def` handlers."""

    async def Ok(self, request: bytes, context: Any) -> bytes:
        return b"ok:" + request

    async def EmptyReply(self, request: bytes, context: Any) -> bytes:
        return b""

    async def OkAfterAwait(self, request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0)
        return b"ok:" + request

    async def OkWithDetails(self, request: bytes, context: Any) -> bytes:
        context.set_details("all is well")
        return b"ok"

    async def OkWithCodeOk(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.OK)
        context.set_details("all is well")
        return b"ok"

    async def OkWithTrailingMetadata(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("a-key", "a value"), ("raw-bin", b"\x00\xff,\n"), ("a-key", "another")))
        return b"ok"

    async def TrailingMetadataSetTwice(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("first", "1"),))
        context.set_trailing_metadata((("second", "2"),))
        return _said(context.trailing_metadata())

    async def TrailingMetadataAsAList(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata([("a-key", "a value")])
        return b"ok"

    async def TrailingMetadataAsAioMetadata(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(grpc.aio.Metadata(("a-key", "a value"), ("b-bin", b"\x01")))
        return b"ok"

    async def InitialMetadata(self, request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("early", "bird"), ("worm-bin", b"\x00\x01")))
        return b"ok"

    async def InitialMetadataThenAbort(self, request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("early", "bird"),))
        await context.abort(grpc.StatusCode.NOT_FOUND, "no worm")
        return b"never"

    async def InitialMetadataTwice(self, request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("early", "bird"),))
        try:
            await context.send_initial_metadata((("late", "bird"),))
        except grpc.aio.UsageError:
            return b"refused"
        return b"not refused"

    async def EmptyInitialMetadata(self, request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata(())
        return b"ok"

    async def Abort(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")
        return b"never"

    async def AbortWithoutDetails(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION)
        return b"never"

    async def AbortWithDetailsSetBefore(self, request: bytes, context: Any) -> bytes:
        context.set_details("from before")
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION)
        return b"never"

    async def AbortWithTrailingMetadata(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone", (("where", "there"), ("exactly-bin", b"\xfe")))
        return b"never"

    async def AbortWithTrailingMetadataSetBefore(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("where", "there"),))
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        return b"never"

    async def AbortOverridesTrailingMetadata(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("where", "there"),))
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone", (("else", "where"),))
        return b"never"

    async def AbortWithStatus(self, request: bytes, context: Any) -> bytes:
        class Status(grpc.Status):
            code = grpc.StatusCode.DATA_LOSS
            details = "as a status"
            trailing_metadata = (("from", "status"),)

        await context.abort_with_status(Status())
        return b"never"

    async def AbortSuppressed(self, request: bytes, context: Any) -> bytes:
        with contextlib.suppress(Exception):
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        return b"never"

    async def AbortCaughtAndOtherRaised(self, request: bytes, context: Any) -> bytes:
        try:
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        except grpc.aio.AbortError:
            raise ValueError("while aborting") from None
        return b"never"

    async def RaiseAnAbortError(self, request: bytes, context: Any) -> bytes:
        raise grpc.aio.AbortError("of somebody else")

    async def AbortInATaskOfItsOwn(self, request: bytes, context: Any) -> bytes:
        await asyncio.ensure_future(context.abort(grpc.StatusCode.NOT_FOUND, "gone"))
        return b"never"

    async def AbortTwice(self, request: bytes, context: Any) -> bytes:
        with contextlib.suppress(grpc.aio.AbortError):
            await context.abort(grpc.StatusCode.NOT_FOUND, "first")
        with contextlib.suppress(grpc.aio.UsageError):
            await context.abort(grpc.StatusCode.INTERNAL, "second")
        return b"never"

    async def CodeWithoutAbort(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("look elsewhere")
        context.set_trailing_metadata((("where", "elsewhere"),))
        return b"is dropped"

    async def CodeWithoutDetails(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        return b"is dropped"

    async def CodeAsANumber(self, request: bytes, context: Any) -> bytes:
        context.set_code(5)
        return b"is dropped"

    async def CodeThenRaise(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        raise ValueError("there is one")

    async def CodeAndDetailsThenRaise(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        context.set_details("the details")
        raise ValueError("there is one")

    async def DetailsThenRaise(self, request: bytes, context: Any) -> bytes:
        context.set_details("the details")
        raise ValueError("oh no")

    async def CodeSetAndTakenBack(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_code(grpc.StatusCode.OK)
        return b"ok"

    async def WhatIsSetCanBeRead(self, request: bytes, context: Any) -> bytes:
        before = (context.code(), context.details(), context.trailing_metadata())
        context.set_code(grpc.StatusCode.OK)
        context.set_details("read")
        context.set_trailing_metadata((("k", "v"),))
        return _said(before, context.code(), context.details(), context.trailing_metadata())

    async def Raise(self, request: bytes, context: Any) -> bytes:
        raise KeyError("a key")

    async def RaiseAfterAwait(self, request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0)
        raise KeyError("a key")

    async def RaiseWithTrailingMetadata(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("where", "there"),))
        raise KeyError("a key")

    async def RaiseWithoutText(self, request: bytes, context: Any) -> bytes:
        raise ValueError

    async def RaiseUnicode(self, request: bytes, context: Any) -> bytes:
        raise ValueError("größer als 100 %\n\U0001f41a")

    async def RaiseStopIteration(self, request: bytes, context: Any) -> bytes:
        return next(iter(()))

    async def RaiseTimeoutError(self, request: bytes, context: Any) -> bytes:
        async with asyncio.timeout(0):
            await asyncio.sleep(10)
        return b"never"

    async def ReturnNone(self, request: bytes, context: Any) -> None:
        return None

    async def ReturnText(self, request: bytes, context: Any) -> Any:
        return "text is encoded"

    async def ReturnNumber(self, request: bytes, context: Any) -> Any:
        return 17

    async def ReturnNoneAfterSettingCode(self, request: bytes, context: Any) -> None:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("nothing there")

    async def UnicodeDetails(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.INTERNAL, "größer als \U0001f41a")
        return b"never"

    async def PercentAndNewline(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.INTERNAL, "100% sure\r\nof it\t%41%zz \x7f\x01")
        return b"never"

    async def SpacesInDetails(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.INTERNAL, "  padded  ")
        return b"never"

    async def LongDetails(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.INTERNAL, "long " * 1000)
        return b"never"

    async def RichStatus(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.INTERNAL, "rich", (("grpc-status-details-bin", b"\x08\x0d"),))
        return b"never"

    async def InvalidMetadataKey(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("Capital", "letters"),))
        return b"ok"

    async def InvocationMetadata(self, request: bytes, context: Any) -> bytes:
        return _said(*((key, value) for key, value in context.invocation_metadata()))

    async def InvocationMetadatum(self, request: bytes, context: Any) -> bytes:
        metadatum = context.invocation_metadata()[0]
        return _said(metadatum.key, metadatum.value, isinstance(context.invocation_metadata(), tuple))

    async def NotAuthenticated(self, request: bytes, context: Any) -> bytes:
        return _said(context.peer_identities(), context.peer_identity_key())

    async def PeerForm(self, request: bytes, context: Any) -> bytes:
        family, address, _port = context.peer().split(":")
        return _said(family, address)

    async def TimeRemaining(self, request: bytes, context: Any) -> bytes:
        left = context.time_remaining()
        return _said(left is None or 0 < left <= float(request))

    async def DoneAndCancelled(self, request: bytes, context: Any) -> bytes:
        return _said(context.done(), context.cancelled())

    async def Large(self, request: bytes, context: Any) -> bytes:
        return bytes(int(request))

    async def Size(self, request: bytes, context: Any) -> bytes:
        return str(len(request)).encode()

    async def Never(self, request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return b"never"

    async def Compressed(self, request: bytes, context: Any) -> bytes:
        context.set_compression(grpc.Compression.Gzip)
        return b"x" * 1000

    async def NotCompressed(self, request: bytes, context: Any) -> bytes:
        context.disable_next_message_compression()
        return b"ok"

    async def RaiseCancelledError(self, request: bytes, context: Any) -> bytes:
        raise asyncio.CancelledError

    async def AbortWithOk(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.OK, "fine")
        return b"never"


class Functions:
    """`def` handlers, whose contexts are thinner."""

    def DefOk(self, request: bytes, context: Any) -> bytes:
        return b"ok:" + request

    def DefAbort(self, request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now", (("where", "there"),))
        return b"never"

    def DefAbortSuppressed(self, request: bytes, context: Any) -> bytes:
        with contextlib.suppress(Exception):
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")
        return b"never"

    def DefInitialMetadata(self, request: bytes, context: Any) -> bytes:
        context.send_initial_metadata((("early", "bird"),))
        return b"ok"

    def DefTrailingMetadata(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("a-key", "a value"), ("raw-bin", b"\x00\xff")))
        return b"ok"

    def DefCode(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("look elsewhere")
        return b"is dropped"

    def DefRaise(self, request: bytes, context: Any) -> bytes:
        raise KeyError("a key")

    def DefCodeThenRaise(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        raise ValueError("there is one")

    def DefReturnNone(self, request: bytes, context: Any) -> None:
        return None

    def DefInvocationMetadata(self, request: bytes, context: Any) -> bytes:
        return _said(*((key, value) for key, value in context.invocation_metadata()))

    def DefTimeRemaining(self, request: bytes, context: Any) -> bytes:
        left = context.time_remaining()
        return _said(left is None or 0 < left <= float(request))

    def DefCompressed(self, request: bytes, context: Any) -> bytes:
        context.set_compression(grpc.Compression.Gzip)
        context.disable_next_message_compression()
        return b"ok"

    def DefStopIteration(self, request: bytes, context: Any) -> bytes:
        return next(iter(()))


def handlers() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for servicer in (Coroutines(), Functions()):
        for name in dir(servicer):
            if not name.startswith("_"):
                made[name] = grpc.unary_unary_rpc_method_handler(getattr(servicer, name), _identity, None)
    ok: Callable[..., Any] = Coroutines().Ok
    made["BadRequest"] = grpc.unary_unary_rpc_method_handler(ok, _refuse, None)
    made["BadReply"] = grpc.unary_unary_rpc_method_handler(ok, None, _refuse)
    return made


OPTIONS = (("grpc.max_receive_message_length", 100_000), ("grpc.max_send_message_length", 200_000))
