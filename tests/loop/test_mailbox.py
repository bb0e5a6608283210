"""Mailboxes are bounded, per lane, and lose nothing."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

import atoll
from atoll.errors import MailboxFull

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_full_lane_raises_with_the_remedy_and_the_other_lanes_have_room(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(max_queued=3)
    ran: list[int] = []
    for number in range(3):
        io_context.post(ran.append, number)
    bound = io_context.bind(ran.append)
    for post in (io_context.post, io_context.submit, io_context.dispatch):
        with pytest.raises(MailboxFull, match=r"normal lane of loop 'test' holds 3 handlers.*larger max_queued"):
            post(ran.append, 9)
    with pytest.raises(MailboxFull):
        bound(9)
    assert io_context.stats().queued == {"control": 0, "normal": 3, "bulk": 0}
    io_context.post(ran.append, 10, lane="control")
    io_context.post(ran.append, 11, lane="bulk")
    io_context.run()
    assert ran == [10, 0, 1, 2, 11], "what was accepted runs, what was refused does not"
    assert io_context.stats().total == 5


def test_what_a_stop_has_kept_from_its_turn_is_queued_and_takes_up_room(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(max_queued=3)
    ran: list[int] = []
    io_context.post(io_context.stop)
    io_context.post(ran.append, 1)
    io_context.post(ran.append, 2)
    assert io_context.run() == 1
    assert io_context.stats().queued == {"control": 0, "normal": 2, "bulk": 0}
    io_context.post(ran.append, 3)
    with pytest.raises(MailboxFull):
        io_context.post(ran.append, 4)
    io_context.restart()
    io_context.run()
    assert ran == [1, 2, 3]
    assert io_context.stats().queued == {"control": 0, "normal": 0, "bulk": 0}


def test_what_one_step_leaves_is_queued_lane_by_lane(io_context: atoll.IoContext) -> None:
    queued = []
    for lane in ("bulk", "control", "normal", "bulk"):
        io_context.post(lambda: queued.append(io_context.stats().queued), lane=lane)
    while io_context.poll_one():
        pass
    assert queued == [
        {"control": 0, "normal": 1, "bulk": 2},
        {"control": 0, "normal": 0, "bulk": 2},
        {"control": 0, "normal": 0, "bulk": 1},
        {"control": 0, "normal": 0, "bulk": 0},
    ], "what runs is queued no more"


def test_closing_leaves_nothing_queued(io_context: atoll.IoContext) -> None:
    io_context.post(io_context.stop)
    future = io_context.submit(print)
    io_context.run()
    io_context.close()
    assert future.cancelled()
    assert io_context.stats().queued == {"control": 0, "normal": 0, "bulk": 0}


def test_what_found_no_room_is_counted_by_lane_and_shown(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(max_queued={"bulk": 1}, max_delayed=1)
    assert "refused" not in io_context.stats().report()
    before = io_context.stats()
    for _ in range(4):
        with contextlib.suppress(MailboxFull):
            io_context.post(print, lane="bulk", name="scan")
    for _ in range(2):
        with contextlib.suppress(MailboxFull):
            io_context.post(print, delay=60)
    stats = io_context.stats()
    assert stats.refused == {"control": 0, "normal": 1, "bulk": 3}
    assert (stats - before).refused == stats.refused
    assert (io_context.stats() - stats).refused == before.refused == {"control": 0, "normal": 0, "bulk": 0}
    assert "\n  refused         control 0, normal 1, bulk 3\n" in stats.report()
    assert stats.total == 1, "it was no handler of the loop's"


def test_handlers_that_wait_for_their_time_are_bounded_too(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(max_delayed=2)
    io_context.post(print, delay=60)
    io_context.post(print, delay=60)
    with pytest.raises(MailboxFull, match="max_delayed"):
        io_context.post(print, delay=60)
    assert io_context.stats().delayed == 2


def test_a_delayed_handler_that_was_accepted_runs_even_when_the_lane_is_full(
    make: Callable[..., atoll.IoContext],
) -> None:
    io_context = make(max_queued=1)
    ran: list[str] = []
    io_context.post(ran.append, "delayed", delay=0.2)

    def fill_and_wait() -> None:
        io_context.post(ran.append, "filler")
        while io_context.stats().delayed:
            pass

    io_context.post(fill_and_wait)
    io_context.run()
    assert ran == ["filler", "delayed"]


def test_cancelling_works_when_every_lane_is_full(start: Callable[..., atoll.IoContext]) -> None:
    io_context = start(max_queued=1)
    started, release = threading.Event(), threading.Event()

    async def wait() -> None:
        started.set()
        await atoll.IoContext.current().submit(lambda: None, delay=3600)

    future = io_context.submit(wait)
    assert started.wait(30)
    blocking = threading.Event()

    def block() -> None:
        blocking.set()
        release.wait(30)

    io_context.post(block)
    assert blocking.wait(30)
    lanes: list[Any] = ["control", "normal", "bulk"]
    for lane in lanes:
        io_context.post(lambda: None, lane=lane)
    assert future.cancel()
    release.set()
    assert isinstance(future.exception(30), BaseException)


def test_a_loop_has_room_again_when_it_has_caught_up(
    start: Callable[..., atoll.IoContext],
) -> None:
    small = start("small", max_queued=5)
    accepted = refused = 0
    ran: list[int] = []
    while refused == 0 or accepted < 50:
        try:
            small.post(ran.append, accepted)
        except MailboxFull:
            refused += 1
            small.submit(lambda: None, lane="control").result(30)
        else:
            accepted += 1
    small.submit(lambda: None, lane="bulk").result(30)
    assert ran == list(range(accepted))
