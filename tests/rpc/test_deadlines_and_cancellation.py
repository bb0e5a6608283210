"""Calls that end before their handler does: by their deadline, by their client, with their connection."""

# Handlers take what they don't need.
# ruff: noqa: ARG001, ARG002

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.rpc.support import ClientProcess, NewLoop, path, running, serving, until, wait_for

import atoll
from atoll import IoContext, rpc

SOON = 0.15


class Waiting:
    """Handlers that wait until they are cancelled, and remember it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.left = threading.Event()
        self.ended_by: BaseException | None = None
        self.context: Any = None
        self.callbacks: list[tuple[object, str]] = []

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.context = context
        context.add_done_callback(lambda seen: self.callbacks.append((seen, threading.current_thread().name)))
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            self.ended_by = error
            raise
        finally:
            self.left.set()
        return b"never"

    async def wait_until_left(self) -> None:
        await asyncio.to_thread(wait_for, self.left)


@contextlib.contextmanager
def blocked(io_context: IoContext) -> Iterator[None]:
    """Keeps a loop busy."""
    entered, leave = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        wait_for(leave)

    io_context.post(block)
    wait_for(entered)
    try:
        yield
    finally:
        leave.set()


def settled(io_context: IoContext) -> bool:
    return io_context.stats().active == 0


# ------------------------------------------------------------------------------------------------------------ deadlines


async def test_a_handler_sees_how_much_time_is_left(client: ClientProcess) -> None:
    async def left(request: bytes, context: Any) -> bytes:
        return str(context.time_remaining()).encode()

    async with serving(Left=left) as target:
        with_deadline = (await client.call(target, path("Left"), timeout=50)).reply
        without = (await client.call(target, path("Left"), timeout=None)).reply
    assert with_deadline is not None
    assert 40 < float(with_deadline) < 51  # the client rounds up to three digits
    assert without == b"None"


async def test_at_its_deadline_a_call_is_answered_and_its_handler_cancelled(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    waiting = Waiting()
    module = new_loop("module")
    async with serving(module, Wait=waiting.wait) as target:
        outcome = await client.call(target, path("Wait"), timeout=SOON)
        assert outcome.code == "DEADLINE_EXCEEDED"
        await waiting.wait_until_left()
        await until(lambda: settled(module))
        assert isinstance(waiting.ended_by, asyncio.CancelledError)
        assert waiting.context.time_remaining() == 0
        assert waiting.context.cancelled()
        assert waiting.context.done()
        assert waiting.callbacks == [(waiting.context, "module")]


async def test_unplaced_handlers_are_cancelled_at_the_deadline_too(client: ClientProcess) -> None:
    waiting = Waiting()
    async with serving(Wait=waiting.wait) as target:
        assert (await client.call(target, path("Wait"), timeout=SOON)).code == "DEADLINE_EXCEEDED"
        await waiting.wait_until_left()
    assert isinstance(waiting.ended_by, asyncio.CancelledError)


@pytest.mark.parametrize("state", ["running", "queued"])
async def test_the_server_answers_at_the_deadline_while_the_loop_is_stuck(
    client: ClientProcess, new_loop: NewLoop, state: str
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def block(request: bytes, context: Any) -> bytes:
        entered.set()
        wait_for(leave)
        return b"too late"

    module = new_loop("module")
    async with serving(module, Block=block) as target:
        with blocked(module) if state == "queued" else contextlib.nullcontext():
            # As metadata the deadline is known to the server only, so the answer is the server's.
            call = client.start(target, path("Block"), timeout=None, metadata=(("grpc-timeout", "150m"),))
            outcome = await call.outcome()
            assert (outcome.code, outcome.details) == ("DEADLINE_EXCEEDED", "Deadline Exceeded")
        assert entered.is_set() == (state == "running")
        leave.set()
        await until(lambda: settled(module))


async def test_a_call_whose_deadline_passes_while_it_is_queued_never_reaches_python(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    ran: list[bytes] = []

    def parse(request: bytes) -> bytes:
        ran.append(request)
        return request

    async def answer(request: bytes, context: Any) -> bytes:
        ran.append(request)
        return b""

    module = new_loop("module")

    server = rpc.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(answer, parse, None)
    server.on(module).add_registered_method_handlers("a.Service", {"Answer": handler})
    async with running(server) as target:
        with blocked(module):
            # As metadata the deadline is known to the server only, so the answer is the server's.
            late = client.start(
                target, "/a.Service/Answer", b"late", timeout=None, metadata=(("grpc-timeout", "150m"),)
            )
            assert (await late.outcome()).code == "DEADLINE_EXCEEDED"
        assert (await client.call(target, "/a.Service/Answer", b"in time")).code == "OK"
    assert ran == [b"in time", b"in time"]
    stats = module.stats()["Service.Answer"]
    assert (stats.total, stats.active, stats.running, stats.errors) == (2, 0, 0, 0)
    assert stats.execution_time.count == 1


async def test_calls_that_clients_cancel_while_they_are_queued_never_reach_python(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    ran: list[bytes] = []

    async def answer(request: bytes, context: Any) -> bytes:
        ran.append(request)
        return b""

    module = new_loop("module")
    async with serving(module, Answer=answer) as target:
        await client.call(target, path("Answer"), b"first")
        with blocked(module):
            calls = [client.start(target, path("Answer"), b"cancelled") for _ in range(50)]
            await until(lambda: module.stats().queued["normal"] == 50)
            for call in calls:
                call.cancel()
            assert {(await call.outcome()).code for call in calls} == {"CANCELLED"}
            # The cancellations have arrived when a call that was sent after them has.
            last = client.start(target, path("Answer"), b"last")
            await until(lambda: module.stats()["Hoc.Answer"].total == 52)
        await last.outcome()
    assert ran == [b"first", b"last"]


async def test_a_handler_that_ignores_its_cancellation_ends_in_its_own_time(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    ignored, leave = threading.Event(), asyncio.Event()

    async def stubborn(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ignored.set()
        await leave.wait()
        return b"too late"

    async with serving(Stubborn=stubborn) as target:
        assert (await client.call(target, path("Stubborn"), timeout=SOON)).code == "DEADLINE_EXCEEDED"
        await asyncio.to_thread(wait_for, ignored)
        assert IoContext.current().stats()["Hoc.Stubborn"].running == 1
        leave.set()
        await until(lambda: IoContext.current().stats()["Hoc.Stubborn"].running == 0)


async def test_a_plain_function_in_the_pool_is_left_alone_by_the_deadline(client: ClientProcess) -> None:
    leave, left = threading.Event(), threading.Event()

    def block(request: bytes, context: Any) -> bytes:
        wait_for(leave)
        context.set_trailing_metadata((("too", "late"),))
        left.set()
        return b"too late"

    async with serving(Block=block) as target:
        assert (await client.call(target, path("Block"), timeout=SOON)).code == "DEADLINE_EXCEEDED"
        leave.set()
        await asyncio.to_thread(wait_for, left)


# --------------------------------------------------------------------------------------------------------- cancellation


async def test_a_client_that_cancels_has_the_handler_cancelled(client: ClientProcess, new_loop: NewLoop) -> None:
    waiting = Waiting()
    module = new_loop("module")
    async with serving(module, Wait=waiting.wait) as target:
        call = client.start(target, path("Wait"))
        await asyncio.to_thread(wait_for, waiting.entered)
        assert not waiting.context.cancelled()
        assert not waiting.context.done()
        call.cancel()
        assert (await call.outcome()).code == "CANCELLED"
        await waiting.wait_until_left()
        await until(lambda: settled(module))
    assert isinstance(waiting.ended_by, asyncio.CancelledError)
    assert waiting.context.cancelled()
    assert waiting.callbacks == [(waiting.context, "module")]
    assert module.stats()["Hoc.Wait"].errors == 0


async def test_a_connection_that_is_lost_has_the_handlers_of_its_calls_cancelled(new_loop: NewLoop) -> None:
    waiting = Waiting()
    doomed = ClientProcess()
    module = new_loop("module")
    async with serving(module, Wait=waiting.wait) as target:
        doomed.start(target, path("Wait"))
        await asyncio.to_thread(wait_for, waiting.entered)
        doomed.kill()
        await waiting.wait_until_left()
        await until(lambda: settled(module))
    assert isinstance(waiting.ended_by, asyncio.CancelledError)
    assert waiting.context.cancelled()
    assert len(waiting.callbacks) == 1


async def test_a_plain_function_can_ask_whether_its_client_still_waits(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    entered, leave = threading.Event(), threading.Event()
    seen: list[object] = []

    def block(request: bytes, context: Any) -> bytes:
        seen.append(context.is_active())
        seen.append(context.add_callback(lambda: seen.append("called")))
        entered.set()
        while context.is_active():
            assert not leave.wait(0.001)
        seen.append(context.is_active())
        return b"too late"

    module = new_loop("module")
    async with serving(module, Block=block) as target:
        call = client.start(target, path("Block"))
        await asyncio.to_thread(wait_for, entered)
        call.cancel()
        await call.outcome()
        await until(lambda: settled(module))
    assert seen == [True, True, False, "called"]


@pytest.mark.parametrize("kind", ["returns", "raises", "aborts"])
async def test_done_callbacks_run_once_however_the_handler_ends(client: ClientProcess, kind: str, log: Any) -> None:
    called: list[tuple[str, object]] = []

    async def handler(request: bytes, context: Any) -> bytes:
        context.add_done_callback(lambda seen: called.append(("first", seen.done())))
        context.add_done_callback(lambda seen: called.append(("second", seen.cancelled())))
        if kind == "raises":
            raise ValueError("on purpose")
        if kind == "aborts":
            await context.abort(grpc.StatusCode.ABORTED, "on purpose")
        return b""

    async with serving(Handler=handler) as target:
        await client.call(target, path("Handler"))
        await until(lambda: called)
    assert called == [("first", True), ("second", False)]
    log.take("on purpose")


async def test_a_done_callback_that_raises_is_logged_and_the_others_run(client: ClientProcess, log: Any) -> None:
    called: list[object] = []

    async def handler(request: bytes, context: Any) -> bytes:
        context.add_done_callback(lambda _: 1 / 0)
        context.add_done_callback(called.append)
        return b"ok"

    async with serving(Handler=handler) as target:
        assert (await client.call(target, path("Handler"))).reply == b"ok"
        await until(lambda: called)
    assert log.take("ZeroDivisionError")


async def test_cancelling_after_the_reply_does_nothing(client: ClientProcess) -> None:
    finished = asyncio.Event()

    async def handler(request: bytes, context: Any) -> bytes:
        context.add_done_callback(lambda _: finished.set())
        return b"ok"

    async with serving(Handler=handler) as target:
        call = client.start(target, path("Handler"))
        assert (await call.outcome()).code == "OK"
        call.cancel()
        assert (await client.call(target, path("Handler"))).code == "OK"


async def test_a_handler_may_shield_its_work_from_the_cancellation(client: ClientProcess) -> None:
    entered, finish, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await finish.wait()
        finished.set()

    async def handler(request: bytes, context: Any) -> bytes:
        entered.set()
        await asyncio.shield(work())
        return b"never"

    async with serving(Handler=handler) as target:
        call = client.start(target, path("Handler"))
        await entered.wait()
        call.cancel()
        await call.outcome()
        finish.set()
        await asyncio.wait_for(finished.wait(), 20)


async def test_a_handler_that_raises_the_cancellation_itself_is_answered(client: ClientProcess) -> None:
    async def at_once(request: bytes, context: Any) -> bytes:
        raise asyncio.CancelledError

    async def later(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    async def by_its_task(request: bytes, context: Any) -> bytes:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(10)
        return b"never"

    async with serving(AtOnce=at_once, Later=later, ByItsTask=by_its_task) as target:
        for method in ("AtOnce", "Later", "ByItsTask"):
            assert (await client.call(target, path(method))).code == "CANCELLED"


async def test_timeouts_within_a_handler_work(client: ClientProcess) -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            return b"timed out"
        return b"never"

    async with serving(Handler=handler) as target:
        assert (await client.call(target, path("Handler"))).reply == b"timed out"


async def test_task_groups_within_a_handler_are_cancelled_with_it(client: ClientProcess) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def child() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async def handler(request: bytes, context: Any) -> bytes:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            group.create_task(child())
        return b"never"

    async with serving(Handler=handler) as target:
        call = client.start(target, path("Handler"))
        await entered.wait()
        call.cancel()
        await asyncio.wait_for(left.wait(), 20)


async def test_what_a_call_calls_has_its_clients_deadline(client: ClientProcess, new_loop: NewLoop) -> None:
    async def remaining(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0)
        return repr(atoll.time_remaining()).encode()

    def remaining_in_a_function(request: bytes, context: Any) -> bytes:
        return repr(atoll.time_remaining()).encode()

    async with serving(new_loop("module"), Remaining=remaining, Function=remaining_in_a_function) as target:
        for method in ("Remaining", "Function"):
            assert (await client.call(target, path(method), timeout=None)).reply == b"None"
            reply = (await client.call(target, path(method), timeout=30)).reply
            assert reply is not None
            assert 0 < float(reply) <= 31, "grpcio rounds up what it sends"
            again = await client.call(target, path(method), timeout=None)
            assert again.reply == b"None", "it ends with its call"
