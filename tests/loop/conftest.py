"""Loops for the tests of this folder, each test on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import atoll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes asyncio loops of one of the two kinds."""
    if request.param == "asyncio":
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = pytest.importorskip("uvloop").new_event_loop
    return factory


class Raised(list[tuple[str, BaseException]]):
    """An exception hook that keeps what it gets."""

    def __call__(self, io_context: atoll.IoContext, handler: str, exception: BaseException) -> None:  # noqa: ARG002
        self.append((handler, exception))


@pytest.fixture
def raised() -> Raised:
    """What handlers of `make` contexts raised, as (handler name, exception)."""
    return Raised()


@pytest.fixture
def make(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], raised: Raised
) -> Iterator[Callable[..., atoll.IoContext]]:
    """Makes resting contexts, and closes them at the end."""
    made: list[atoll.IoContext] = []

    def make_one(name: str = "test", **options: Any) -> atoll.IoContext:
        options = {"loop_factory": loop_factory, "exception_hook": raised, **options}
        made.append(atoll.IoContext(name, **options))
        return made[-1]

    yield make_one
    for io_context in made:
        io_context.close()


@pytest.fixture
def io_context(make: Callable[..., atoll.IoContext]) -> atoll.IoContext:
    """A resting context: `run()` runs what has been posted and returns."""
    return make()


@pytest.fixture
def start(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], raised: Raised
) -> Iterator[Callable[..., atoll.IoContext]]:
    """Starts contexts on threads of their own, and stops them at the end."""
    threads: list[atoll.IoContextThread] = []

    def start_one(name: str = "test", **options: Any) -> atoll.IoContext:
        options = {"loop_factory": loop_factory, "exception_hook": raised, **options}
        thread = atoll.IoContextThread(name, **options)
        thread.start()
        threads.append(thread)
        return thread.io_context

    yield start_one
    for thread in reversed(threads):
        thread.stop()


@pytest.fixture
def running(start: Callable[..., atoll.IoContext]) -> atoll.IoContext:
    """A context that runs on a thread of its own."""
    return start()
