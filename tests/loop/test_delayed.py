"""Posts with a delay: order, accuracy, cancelling, and that the loop waits for no more of them than there are."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import TYPE_CHECKING

import pytest

import atoll

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_hundred_thousand_posts_with_one_delay_run_in_the_order_posted(make: Callable[..., atoll.IoContext]) -> None:
    io_context = make(max_queued=200_000)
    ran: list[int] = []
    for number in range(100_000):
        io_context.post(ran.append, number, delay=0.01)
    assert io_context.run() == 100_000
    assert ran == list(range(100_000))


def test_posts_run_in_the_order_of_their_times(io_context: atoll.IoContext) -> None:
    ran: list[int] = []
    for delay in (30, 10, 20, 1):
        io_context.post(ran.append, delay, delay=delay / 1000)
    io_context.run()
    assert ran == [1, 10, 20, 30]


def test_a_handler_never_runs_before_its_time(running: atoll.IoContext) -> None:
    late = []
    for delay in (0.0002, 0.001, 0.005):
        began = time.monotonic()
        due = running.submit(time.monotonic, delay=delay).result(30) - began
        late.append(due - delay)
    assert min(late) >= 0


def test_a_cancelled_post_is_forgotten_at_once_and_waited_for_no_longer(io_context: atoll.IoContext) -> None:
    class Argument:
        pass

    argument = Argument()
    watched = weakref.ref(argument)
    future = io_context.submit(lambda _: None, argument, delay=3600)
    del argument
    assert io_context.stats().delayed == 1
    assert future.cancel()
    assert future.cancelled()
    assert io_context.stats().delayed == 0
    gc.collect()
    assert watched() is None
    assert io_context.run() == 0, "nothing is left to wait for"


def test_cancelling_from_another_thread_lets_run_return(io_context: atoll.IoContext) -> None:
    future = io_context.submit(lambda: None, delay=3600)
    thread = threading.Thread(target=io_context.run)
    thread.start()
    assert future.cancel()
    thread.join(30)
    assert not thread.is_alive()


def test_posts_that_are_cancelled_again_and_again_leave_nothing_behind(io_context: atoll.IoContext) -> None:
    for _ in range(20_000):
        assert io_context.submit(lambda: None, delay=3600).cancel()
    assert io_context.stats().delayed == 0
    assert io_context.run() == 0


def test_a_number_cancels_once(io_context: atoll.IoContext) -> None:
    ran: list[int] = []
    first = io_context._post_delayed(ran.append, (1,), "first", 0.001, "normal")
    second = io_context._post_delayed(ran.append, (2,), "second", 3600, "normal")
    assert first is not None
    assert second is not None
    assert io_context._cancel_delayed(second)
    assert not io_context._cancel_delayed(second)
    io_context.run()
    assert ran == [1]
    assert not io_context._cancel_delayed(first)
    assert io_context.stats()["first"].total == 1
    assert [handler.name for handler in io_context.stats()] == ["first"]


def test_what_waits_for_its_time_is_cancelled_when_the_context_is_closed(io_context: atoll.IoContext) -> None:
    future = io_context.submit(lambda: None, delay=3600)
    io_context.close()
    assert future.cancelled()
    with pytest.raises(atoll.errors.LoopClosedError):
        io_context.post(lambda: None, delay=1)
