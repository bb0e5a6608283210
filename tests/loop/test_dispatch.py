"""`dispatch` runs a handler at once when it may, and otherwise posts it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import atoll

if TYPE_CHECKING:
    from collections.abc import Callable


def test_dispatch_on_the_loop_runs_at_once(io_context: atoll.IoContext) -> None:
    ran: list[str] = []

    def handler() -> None:
        io_context.dispatch(ran.append, "inside")
        ran.append("after")

    io_context.post(handler)
    assert io_context.run() == 1, "what is dispatched is a part of the handler that dispatches"
    assert ran == ["inside", "after"]


def test_dispatch_before_the_loop_runs_posts(io_context: atoll.IoContext) -> None:
    ran: list[str] = []
    io_context.dispatch(ran.append, "dispatched")
    assert ran == []
    io_context.run()
    assert ran == ["dispatched"]


def test_dispatch_never_runs_at_once_on_another_thread_nor_on_another_loop(
    start: Callable[..., atoll.IoContext],
) -> None:
    here, there = start("here"), start("there")
    ran: list[str] = []
    done = threading.Event()

    def note() -> None:
        ran.append(threading.current_thread().name)
        done.set()

    there.dispatch(note)
    assert done.wait(30)
    done.clear()
    here.submit(there.dispatch, note).result(30)
    assert done.wait(30)
    assert ran == ["there", "there"]


def test_dispatch_posts_beyond_its_depth_so_that_recursion_is_bounded(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(max_dispatch_depth=4)
    depths: list[int] = []
    depth = 0

    def handler(left: int) -> None:
        nonlocal depth
        depth += 1
        depths.append(depth)
        if left:
            io_context.dispatch(handler, left - 1)
        depth -= 1

    io_context.post(handler, 1_000)
    io_context.run()
    assert len(depths) == 1_001
    assert max(depths) == 5


def test_a_dispatched_handler_runs_before_what_was_posted_and_counts_like_any(io_context: atoll.IoContext) -> None:
    ran: list[str] = []

    def handler() -> None:
        io_context.post(ran.append, "posted", name="posted")
        io_context.dispatch(ran.append, "dispatched", name="dispatched")

    io_context.post(handler, name="outer")
    io_context.run()
    assert ran == ["dispatched", "posted"]
    stats = io_context.stats()["dispatched"]
    assert (stats.total, stats.active, stats.running) == (1, 0, 0)
    assert stats.execution_time.count == stats.queue_time.count == 1
    assert io_context.stats()["outer"].execution_time.sum >= stats.execution_time.sum


def test_dispatch_in_an_asyncio_callback_of_the_loop_runs_at_once(io_context: atoll.IoContext) -> None:
    ran: list[str] = []

    async def handler() -> None:
        atoll.IoContext.current().dispatch(ran.append, "at once")
        ran.append("after")

    io_context.post(handler)
    io_context.run()
    assert ran == ["at once", "after"]
