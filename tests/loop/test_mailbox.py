"""Mailboxes are bounded, per lane, and lose nothing."""

from __future__ import annotations

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
