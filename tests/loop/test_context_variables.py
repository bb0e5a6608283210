"""Context variables travel with a post and leak nowhere."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import atoll

REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("REQUEST", default="none")


def posting_ways(io_context: atoll.IoContext) -> list[Callable[..., object]]:
    return [io_context.post, io_context.submit, lambda handler: io_context.bind(handler)()]


def within(value: str, call: Callable[[], object]) -> None:
    def run() -> None:
        REQUEST.set(value)
        call()

    contextvars.copy_context().run(run)


@pytest.mark.parametrize("way", [0, 1, 2])
def test_a_handler_has_its_posters_variables_as_they_were_when_it_posted(io_context: atoll.IoContext, way: int) -> None:
    seen: list[str] = []
    post = posting_ways(io_context)[way]

    def function() -> None:
        seen.append(REQUEST.get())

    async def coroutine() -> None:
        seen.append(REQUEST.get())
        await asyncio.sleep(0)
        seen.append(REQUEST.get())

    def post_and_change() -> None:
        post(function)
        REQUEST.set("changed")
        post(coroutine)
        REQUEST.set("too late")

    within("first", post_and_change)
    io_context.run()
    assert seen == ["first", "changed", "changed"]


def test_what_a_handler_sets_is_seen_by_what_it_posts_and_by_nothing_else(io_context: atoll.IoContext) -> None:
    seen: list[tuple[str, str]] = []

    def note(name: str) -> None:
        seen.append((name, REQUEST.get()))

    def setting() -> None:
        REQUEST.set("mine")
        io_context.post(note, "child")
        io_context.dispatch(note, "dispatched")

    async def setting_later() -> None:
        REQUEST.set("coroutine's")
        await asyncio.sleep(0)
        io_context.post(note, "coroutine's child")

    def dispatching() -> None:
        io_context.dispatch(REQUEST.set, "from a dispatched handler")
        note("dispatcher")

    io_context.post(setting)
    io_context.post(setting_later)
    io_context.post(dispatching)
    io_context.post(note, "neighbour")
    io_context.run()
    assert sorted(seen) == [
        ("child", "mine"),
        ("coroutine's child", "coroutine's"),
        ("dispatched", "mine"),
        ("dispatcher", "none"),
        ("neighbour", "none"),
    ]
    assert REQUEST.get() == "none"


def test_the_thread_that_runs_the_loop_lends_handlers_none_of_its_variables(io_context: atoll.IoContext) -> None:
    seen: list[str] = []

    def in_asyncio() -> None:
        seen.append(REQUEST.get())

    def schedule() -> None:
        asyncio.get_running_loop().call_soon(in_asyncio)
        seen.append(REQUEST.get())

    io_context.post(schedule)
    io_context.post(asyncio.sleep, 0)
    within("runner's", io_context.run)
    assert seen == ["none", "none"]


@pytest.mark.parametrize("kind", ["post", "submit", "dispatch"])
def test_context_replaces_the_posters_variables_and_keeps_what_handlers_set(
    io_context: atoll.IoContext, kind: str
) -> None:
    context = contextvars.Context()
    context.run(REQUEST.set, "given")
    seen: list[str] = []

    def handler() -> None:
        seen.append(REQUEST.get())
        REQUEST.set("kept")

    way: Callable[..., Any] = getattr(io_context, kind)
    within("poster's", lambda: way(handler, context=context))
    io_context.run()
    assert seen == ["given"]
    assert context[REQUEST] == "kept"


@pytest.mark.parametrize("way", ["post", "submit", "dispatch"])
def test_what_is_no_context_is_an_error_at_the_poster(io_context: atoll.IoContext, way: str) -> None:
    with pytest.raises(
        TypeError, match=r"context='no context' is no contextvars\.Context: pass what .*copy_context\(\)"
    ):
        getattr(io_context, way)(print, context="no context")
    assert io_context.stats().total == 0
