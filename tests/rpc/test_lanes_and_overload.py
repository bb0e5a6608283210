"""Calls in lanes, loops that are overloaded, and what a server has counted."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import ClientProcess, NewLoop, add_methods, path, running, until, wait_for

from atoll import IoContext, rpc


async def answer(request: bytes, context: Any) -> bytes:
    return b"answered"


@contextmanager
def blocked(io_context: IoContext) -> Iterator[None]:
    """Keeps a loop from running anything."""
    entered, leave = threading.Event(), threading.Event()

    def block() -> None:
        entered.set()
        wait_for(leave)

    io_context.post(block, lane="control")
    wait_for(entered)
    yield
    leave.set()


async def test_a_methods_lane_is_that_of_its_calls_and_of_what_they_post(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    module = new_loop("module")
    seen: list[str] = []

    def posting(request: bytes, context: Any) -> bytes:
        with_lane = IoContext.current()
        with_lane.post(seen.append, request.decode())
        return b""

    server = rpc.server()
    bulk, control = rpc.MethodOptions(lane="bulk"), rpc.MethodOptions(lane="control")
    add_methods(server.on(module, method_options=bulk), {"Bulk": posting}, service="a.A")
    add_methods(server.on(module, method_options=control), {"Control": posting}, service="b.B")
    async with running(server) as target:
        with blocked(module):
            calls = [client.start(target, path("Bulk", "a.A"), b"bulk")]
            await until(lambda: module.stats().queued["bulk"] == 1)
            calls.append(client.start(target, path("Control", "b.B"), b"control"))
            await until(lambda: module.stats().queued["control"] == 1)
        assert {(await call.outcome()).code for call in calls} == {"OK"}
        await until(lambda: len(seen) == 2)
    assert seen == ["control", "bulk"], "the post of the control call overtook that of the other"


async def test_what_is_urgent_does_not_wait_for_a_batch_of_bulk(client: ClientProcess, new_loop: NewLoop) -> None:
    module = new_loop("module")
    order: list[str] = []
    control_came = threading.Event()

    def slow(request: bytes, context: Any) -> bytes:
        order.append("bulk")
        if len(order) == 2:
            # Each takes longer than a drain may, so the rest of the batch is left for the next one.
            wait_for(control_came)
        time.sleep(0.003)
        return b""

    server = rpc.server(method_options=rpc.MethodOptions(lane="bulk"))
    add_methods(server.on(module), {"Slow": slow})
    async with running(server) as target:
        with blocked(module):
            calls = [client.start(target, path("Slow")) for _ in range(6)]
            await until(lambda: module.stats().queued["bulk"] == 6)
        await until(lambda: len(order) == 2)
        module.post(order.append, "control", lane="control")
        control_came.set()
        assert {(await call.outcome()).code for call in calls} == {"OK"}
    assert order.index("control") in {2, 3}


async def test_an_overloaded_lane_sheds_calls_and_says_when_to_come_again(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    module = new_loop("module")
    ran = 0

    def slow(request: bytes, context: Any) -> bytes:
        nonlocal ran
        ran += 1
        time.sleep(0.01)
        return b""

    options = rpc.Overload(mode="shed", target=0.001, interval=0.02)
    server = rpc.server(overload=options)
    add_methods(server.on(module), {"Slow": slow})
    add_methods(
        server.on(module, method_options=rpc.MethodOptions(lane="control")), {"Beat": answer}, service="control.Beats"
    )
    async with running(server) as target:
        with blocked(module):
            calls = [client.start(target, path("Slow")) for _ in range(50)]
            beats = [client.start(target, path("Beat", "control.Beats")) for _ in range(20)]
            await until(lambda: module.stats().queued["normal"] == 50)
        outcomes = [await call.outcome() for call in calls]
        assert {(await beat.outcome()).code for beat in beats} == {"OK"}
        shed = [outcome for outcome in outcomes if outcome.code == "RESOURCE_EXHAUSTED"]
        assert shed
        assert len(shed) + ran == 50
        assert "overloaded" in shed[0].details
        assert int(dict(shed[0].trailing)["grpc-retry-pushback-ms"]) >= 20
        stats = server.stats()[path("Slow")]
        assert stats.refused == {"overload": len(shed)}
        assert stats.overdue == len(shed)


async def test_unless_told_otherwise_calls_that_are_overdue_are_counted_and_run(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    module = new_loop("module")

    def slow(request: bytes, context: Any) -> bytes:
        time.sleep(0.01)
        return b""

    server = rpc.server(overload=rpc.Overload(target=0.001, interval=0.02))
    add_methods(server.on(module), {"Slow": slow})
    async with running(server) as target:
        with blocked(module):
            calls = [client.start(target, path("Slow")) for _ in range(30)]
            await until(lambda: module.stats().queued["normal"] == 30)
        assert {(await call.outcome()).code for call in calls} == {"OK"}
        stats = server.stats()[path("Slow")]
        assert stats.overdue > 0
        assert stats.refused == {}


async def test_what_a_loop_leaves_to_wait_on_purpose_does_not_overload_it(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    module = new_loop("module", wake_interval=0.02)
    server = rpc.server(overload=rpc.Overload(mode="shed", target=0.005, interval=0.05))
    add_methods(server.on(module), {"Answer": answer})
    async with running(server) as target:
        outcomes = [await client.start(target, path("Answer")).outcome() for _ in range(20)]
    # A machine that is busy may overload it.
    assert [outcome.code for outcome in outcomes].count("OK") > 15


async def test_posts_are_never_shed(client: ClientProcess, new_loop: NewLoop) -> None:
    module = new_loop("module")
    server = rpc.server(overload=rpc.Overload(mode="shed", target=0.0001, interval=0.001))
    add_methods(server.on(module), {"Answer": answer})
    ran: list[object] = []
    async with running(server) as target:
        with blocked(module):
            calls = [client.start(target, path("Answer")) for _ in range(10)]
            await until(lambda: module.stats().queued["normal"] == 10)
            for number in range(100):
                module.post(ran.append, number)
        for call in calls:
            await call.outcome()
        await until(lambda: len(ran) == 100)


@pytest.mark.parametrize("wrong", [{"mode": "drop"}, {"target": 0}, {"interval": float("inf")}])
def test_wrong_settings_of_overload_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        rpc.Overload(**wrong)


async def test_what_is_expired_never_reaches_python_and_is_counted(client: ClientProcess, new_loop: NewLoop) -> None:
    module = new_loop("module")
    ran: list[bytes] = []

    def work(request: bytes, context: Any) -> bytes:
        ran.append(request)
        return b""

    server = rpc.server()
    add_methods(server.on(module), {"Work": work})
    async with running(server) as target:
        with blocked(module):
            late = client.start(target, path("Work"), b"late", timeout=0.05)
            gone = client.start(target, path("Work"), b"gone")
            await until(lambda: module.stats().queued["normal"] == 2)
            gone.cancel()
            assert (await late.outcome()).code == "DEADLINE_EXCEEDED"
            await until(lambda: server.stats()[path("Work")].in_flight == 0)
        assert (await client.call(target, path("Work"), b"in time")).code == "OK"
        stats = server.stats()[path("Work")]
    assert ran == [b"in time"]
    # A client may tell of the deadline before the server has looked at the clock.
    assert stats.refused in ({"deadline": 1, "client": 1}, {"client": 2})
    assert stats.finished["OK"] == 1
    assert sum(stats.finished.values()) == 3


# ---------------------------------------------------------------------------------------------------------------- stats


async def test_a_server_counts_its_methods(client: ClientProcess, log: Log) -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        raise LookupError

    async def abort(request: bytes, context: Any) -> bytes:
        await context.abort(rpc.StatusCode.NOT_FOUND, "nothing")
        raise AssertionError

    server = rpc.server()
    add_methods(server, Answer=answer, Fail=fail, Abort=abort)
    async with running(server) as target:
        earlier = server.stats()
        for _ in range(3):
            await client.call(target, path("Answer"), b"12345")
        await client.call(target, path("Fail"))
        await client.call(target, path("Abort"))
        await until(lambda: server.stats().in_flight == 0)
        stats = server.stats()
        assert stats.connections == 1
        answered = stats[path("Answer")]
        assert (answered.started, answered.finished, answered.refused) == (3, {"OK": 3}, {})
        assert (answered.bytes_received, answered.bytes_sent) == (15, 3 * (5 + len(b"answered")))
        assert stats[path("Fail")].finished == {"UNKNOWN": 1}
        assert stats[path("Abort")].finished == {"NOT_FOUND": 1}
        assert IoContext.current().stats()[answered.handler].total == 3
        window = stats - earlier
        assert window[path("Answer")].started == 3
        await client.call(target, path("Answer"))
        window = server.stats() - stats
        assert (window[path("Answer")].started, window[path("Fail")].finished) == (1, {})
        with pytest.raises(ValueError, match="later - earlier"):
            _ = stats - server.stats()
        with pytest.raises(ValueError, match="window"):
            _ = window - stats
    assert log.take("raised")
    with pytest.raises(KeyError, match="not been started"):
        _ = rpc.server().stats()[path("Answer")]


async def test_calls_are_in_flight_while_they_run(client: ClientProcess) -> None:
    leave = asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        await leave.wait()
        return b""

    server = rpc.server()
    add_methods(server, Wait=wait)
    async with running(server) as target:
        calls = [client.start(target, path("Wait")) for _ in range(5)]
        await until(lambda: server.stats()[path("Wait")].in_flight == 5)
        leave.set()
        for call in calls:
            await call.outcome()
        await until(lambda: server.stats().in_flight == 0)
