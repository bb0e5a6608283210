"""Nothing is kept alive longer than it is used."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import atoll
from atoll.observe import LoopMonitor, MonitorOptions, prometheus_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def no_collection_but_ours() -> Iterator[None]:
    """Turns the garbage collector off, so that only what reference counts free is freed."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Argument:
    """Something that can be watched."""


def function(argument: object) -> object:
    return argument


async def coroutine(argument: object) -> object:
    return argument


async def waiting_coroutine(argument: object) -> object:
    await asyncio.sleep(0)
    return argument


@pytest.mark.parametrize("handler", [function, coroutine, waiting_coroutine])
@pytest.mark.parametrize("way", ["post", "submit", "bind", "dispatch"])
def test_a_thousand_handlers_leave_nothing_and_need_no_collector(
    io_context: atoll.IoContext, handler: Callable[[object], object], way: str
) -> None:
    def post(argument: object) -> None:
        if way == "bind":
            io_context.bind(handler)(argument)
        else:
            getattr(io_context, way)(handler, argument)

    def post_many(count: int) -> list[weakref.ref[Argument]]:
        watched = []
        for _ in range(count):
            argument = Argument()
            watched.append(weakref.ref(argument))
            post(argument)
        return watched

    with io_context.work_guard():
        post_many(10)
        io_context.post(io_context.stop)
        io_context.run()
    gc.collect()
    before = len(gc.get_objects())
    io_context.restart()
    watched = post_many(1_000)
    assert all(reference() is not None for reference in watched)
    io_context.run()
    assert not any(reference() is not None for reference in watched)
    del watched
    assert len(gc.get_objects()) - before < 200
    assert gc.collect() < 100


def test_a_context_that_ran_is_freed_with_its_last_reference_or_by_the_collector(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    io_context = atoll.IoContext("test", loop_factory=loop_factory)
    io_context.post(function, 1)
    io_context.post(waiting_coroutine, 1)
    io_context.run()
    io_context.close()
    reference = weakref.ref(io_context)
    del io_context
    gc.collect()
    assert reference() is None


def test_a_context_that_never_ran_is_freed_with_what_is_queued() -> None:
    io_context = atoll.IoContext("test")
    argument = Argument()
    io_context.post(function, argument)
    io_context.post(function, argument, delay=3600)
    context, watched = weakref.ref(io_context), weakref.ref(argument)
    del io_context, argument
    gc.collect()
    assert context() is None
    assert watched() is None


def test_a_handler_that_posts_to_its_own_context_does_not_keep_a_closed_one_alive(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    io_context = atoll.IoContext("test", loop_factory=loop_factory)
    io_context.post(io_context.post, print, delay=3600)
    io_context.submit(io_context.stats)
    io_context.close()
    reference = weakref.ref(io_context)
    del io_context
    gc.collect()
    assert reference() is None


def test_a_future_does_not_outlive_its_last_reference(io_context: atoll.IoContext) -> None:
    future = io_context.submit(waiting_coroutine, 1)
    reference = weakref.ref(future)
    io_context.run()
    assert future.result() == 1
    del future
    assert reference() is None


def test_bound_handlers_and_guards_are_freed(io_context: atoll.IoContext) -> None:
    bound = io_context.bind(functools.partial(function, Argument()))
    handler = bound.handler
    assert isinstance(handler, functools.partial)
    watched = weakref.ref(handler.args[0])
    del bound, handler
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize("way", ["post", "submit", "bind", "delayed", "left by a stop", "internal"])
def test_a_context_that_nobody_closed_goes_with_posts_that_refer_to_it(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], way: str
) -> None:
    io_context = atoll.IoContext("test", loop_factory=loop_factory)
    argument = Argument()
    watched: list[weakref.ref[Any]] = [weakref.ref(io_context), weakref.ref(argument)]
    match way:
        case "post" | "submit":
            getattr(io_context, way)(io_context.post, function, argument)
        case "bind":
            io_context.bind(functools.partial(function, io_context))(argument)
        case "delayed":
            io_context.post(io_context.post, function, argument, delay=3600)
        case "left by a stop":
            io_context.post(io_context.stop)
            io_context.post(io_context.post, function, argument)
            io_context.run()
            assert io_context.loop is not None
            io_context.loop.close()
        case _:
            io_context._post_internal(functools.partial(io_context.post, function, argument))
    del io_context, argument
    assert all(reference() is not None for reference in watched)
    gc.collect()
    assert not any(reference() is not None for reference in watched)


def test_what_is_queued_on_a_context_in_use_is_kept_while_the_collector_runs() -> None:
    """Also while other threads, some without the GIL, hold the locks that it waits for."""
    with atoll.IoContextThread("busy") as thread:
        io_context = thread.io_context
        ran: list[int] = []
        end = threading.Event()

        def note(argument: list[int]) -> None:
            ran.extend(argument)

        def post() -> None:
            number = 0
            while not end.is_set():
                io_context.post(note, [number], delay=1e-3 if number % 2 else 0.0)
                number += 1
                if number % 100 == 0:
                    io_context.submit(int).result(30)

        with LoopMonitor(MonitorOptions(interval=0.001)) as monitor:
            monitor.watch(io_context)
            poster = threading.Thread(target=post)
            poster.start()
            for _ in range(100):
                gc.collect()
                prometheus_text()
            end.set()
            poster.join()
        while io_context.stats().delayed or io_context.stats().active:
            pass
        assert sorted(ran) == list(range(len(ran)))
        assert io_context.stats().errors == 0


async def never(argument: object) -> object:
    await asyncio.get_running_loop().create_future()
    return argument


def test_a_coroutine_handler_that_nothing_can_wake_goes_with_its_future(io_context: atoll.IoContext) -> None:
    argument = Argument()
    future = io_context.submit(never, argument)
    watched: list[weakref.ref[Any]] = [weakref.ref(future), weakref.ref(argument)]
    del future, argument
    io_context.poll()
    gc.collect()
    assert not any(reference() is not None for reference in watched)
