"""A `LoopBound` gives its value to its own loop only, and says to the others whose it is."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import sys
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import atoll
from atoll import LoopBound
from atoll.errors import NotOnLoopError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def nodes() -> Iterator[atoll.IoContext]:
    """A loop on a thread of its own."""
    with atoll.IoContextThread("nodes") as thread:
        yield thread.io_context


@pytest.fixture
def kv() -> Iterator[atoll.IoContext]:
    """Another."""
    with atoll.IoContextThread("kv") as thread:
        yield thread.io_context


def test_a_box_is_bound_to_the_loop_that_makes_it(nodes: atoll.IoContext) -> None:
    def make() -> LoopBound[int]:
        box = LoopBound(1)
        box.set(box.get() + 1)
        return box

    box = nodes.submit(make).result(30)
    assert box.io_context is nodes
    assert nodes.submit(box.get).result(30) == 2


def test_a_box_may_be_made_elsewhere_for_a_loop(nodes: atoll.IoContext) -> None:
    box = LoopBound({"a": 1}, io_context=nodes)
    assert nodes.submit(lambda: box.get()["a"]).result(30) == 1
    with pytest.raises(NotOnLoopError):
        box.get()


def test_the_error_names_both_loops_and_where_the_box_was_made(nodes: atoll.IoContext, kv: atoll.IoContext) -> None:
    frame = inspect.currentframe()
    box, line = LoopBound([1], io_context=nodes), frame.f_lineno if frame else 0
    with pytest.raises(NotOnLoopError) as caught:
        kv.submit(box.get).result(30)
    assert f"what is bound to loop 'nodes' at {__file__}:{line} was read on loop 'kv'" in str(caught.value)
    assert "io_context.submit(...)" in str(caught.value), "and what to do"
    with pytest.raises(NotOnLoopError, match="was set on loop 'kv'"):
        kv.submit(box.set, [2]).result(30)
    assert nodes.submit(box.get).result(30) == [1]


def test_where_no_loop_runs_the_error_names_the_thread(nodes: atoll.IoContext) -> None:
    box = LoopBound(1, io_context=nodes)
    with pytest.raises(NotOnLoopError, match=f"was read on thread '{threading.current_thread().name}', where no loop"):
        box.get()


def test_where_no_loop_runs_a_box_needs_one() -> None:
    with pytest.raises(NotOnLoopError, match="no loop runs on thread"):
        LoopBound(1)
    with pytest.raises(TypeError):
        LoopBound(1, io_context="nodes")  # type: ignore[arg-type]


def test_a_guests_box_is_its_own_in_handlers_tasks_and_callbacks(nodes: atoll.IoContext) -> None:
    async def main() -> None:
        box = LoopBound("main")
        guest = atoll.IoContext.current()
        assert box.io_context is guest
        assert box.get() == "main"
        assert await guest.submit(box.get) == "main"
        called = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: called.set_result(box.get()))
        assert await called == "main"
        with pytest.raises(NotOnLoopError, match=rf"bound to loop '{guest.name}' .* was read on loop 'nodes'"):
            await nodes.submit(box.get)
        other = LoopBound(1, io_context=nodes)
        with pytest.raises(NotOnLoopError, match=rf"bound to loop 'nodes' .* was read on loop '{guest.name}'"):
            other.get()

    asyncio.run(main())


def test_a_coroutine_may_use_its_loops_box_after_each_await(nodes: atoll.IoContext) -> None:
    async def use() -> list[int]:
        box: LoopBound[list[int]] = LoopBound([])
        for number in range(3):
            await asyncio.sleep(0)
            box.get().append(number)
        return box.get()

    assert nodes.submit(use).result(30) == [0, 1, 2]


def test_a_thread_that_the_loop_starts_is_not_the_loop(nodes: atoll.IoContext) -> None:
    async def use() -> None:
        box = LoopBound(1)
        await asyncio.to_thread(box.get)

    with pytest.raises(NotOnLoopError, match=r"was read on thread '(asyncio|uvloop)_0', where no loop runs"):
        nodes.submit(use).result(30)


def test_two_loops_on_one_thread_are_told_apart() -> None:
    first, second = atoll.IoContext("first"), atoll.IoContext("second")
    box = LoopBound(1, io_context=first)
    taken = first.submit(box.get)
    refused = second.submit(box.get)
    first.run()
    second.run()
    assert taken.result(0) == 1
    with pytest.raises(NotOnLoopError, match=r"bound to loop 'first' .* was read on loop 'second'"):
        refused.result(0)
    first.close()
    second.close()


def test_a_loop_that_rests_still_owns_its_boxes_and_a_closed_one_gives_them_up() -> None:
    resting = atoll.IoContext("resting")
    resting.submit(int)
    resting.run()
    box = LoopBound(1, io_context=resting)
    with pytest.raises(NotOnLoopError):
        box.get()
    resting.close()
    assert box.get() == 1
    box.set(2)
    assert box.get() == 2


def test_what_a_closing_loop_cancels_still_has_it_to_itself() -> None:
    seen: list[object] = []
    closing = atoll.IoContext("closing")

    async def suspended() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            try:
                await asyncio.to_thread(box.get)
            except NotOnLoopError:
                seen.append("refused elsewhere")
            seen.append(box.get())

    box = LoopBound(1, io_context=closing)
    closing.submit(suspended)
    closing.poll()
    closing.poll()
    closing.close()
    assert seen == ["refused elsewhere", 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_may_look_into_its_parents_boxes(nodes: atoll.IoContext) -> None:
    box = LoopBound(7, io_context=nodes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork, which is the point
        child = os.fork()
    if child == 0:
        os._exit(box.get())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_box_is_generic_and_says_whose_it_is_but_not_what_is_in_it(nodes: atoll.IoContext) -> None:
    box = LoopBound[str]("secret", io_context=nodes)
    assert repr(box).startswith(f"<LoopBound of loop 'nodes', bound at {__file__}:")
    assert "secret" not in repr(box)


def test_a_box_that_holds_itself_is_collected(nodes: atoll.IoContext) -> None:
    class Content:
        box: LoopBound[Content]

    content = Content()
    content.box = LoopBound(content, io_context=nodes)
    gone = weakref.ref(content)
    del content
    gc.collect()
    assert gone() is None


def test_what_was_in_the_box_is_let_go_outside_of_it(nodes: atoll.IoContext) -> None:
    values: list[int] = []

    class Old:
        def __del__(self) -> None:
            values.append(box.get())

    box: LoopBound[Any] = LoopBound(None, io_context=nodes)
    nodes.submit(lambda: box.set(Old())).result(30)
    nodes.submit(box.set, 5).result(30)
    assert values == [5]


def test_many_threads_that_may_not_never_get_it(nodes: atoll.IoContext) -> None:
    box = LoopBound(0, io_context=nodes)
    refused = 0

    def attempt() -> None:
        nonlocal refused
        for _ in range(100):
            with pytest.raises(NotOnLoopError):
                box.get()
        refused += 1

    def count() -> None:
        box.set(box.get() + 1)

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        nodes.post(count)
    for thread in threads:
        thread.join()
    assert nodes.submit(box.get).result(30) == 100
    assert refused == 4


def test_looking_up_the_loop_does_not_keep_references() -> None:
    io_context = atoll.IoContext("counted")
    box = LoopBound(object(), io_context=io_context)

    def use() -> tuple[int, int]:
        before = sys.getrefcount(io_context), sys.getrefcount(box.get())
        for _ in range(100):
            box.set(box.get())
        assert (sys.getrefcount(io_context), sys.getrefcount(box.get())) == before
        return before

    done = io_context.submit(use)
    io_context.run()
    done.result(0)
    io_context.close()
