"""How one module calls another."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import TYPE_CHECKING, Any

import pytest

import atoll

if TYPE_CHECKING:
    from collections.abc import Callable

REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("REQUEST", default="none")


class Base:
    """Has a method that a module inherits."""

    def where(self) -> str:
        return threading.current_thread().name


class Nodes(Base):
    """A module."""

    def __init__(self) -> None:
        self.drained: list[str] = []
        self.started = threading.Event()
        self.ended = threading.Event()

    def drain(self, node: str, *, times: int = 1) -> int:
        self.drained += [node] * times
        return len(self.drained)

    async def drain_slowly(self, node: str, times: int = 1) -> list[str]:
        for _ in range(times):
            await asyncio.sleep(0)
            self.drained.append(node)
        return self.drained

    async def endless(self) -> None:
        self.started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            self.ended.set()

    def request(self) -> str:
        return REQUEST.get()

    async def fail(self) -> None:
        raise KeyError("node")


class FastNodes(Nodes):
    """Overrides a method."""

    def drain(self, node: str, *, times: int = 1) -> int:
        return super().drain(node, times=times) + 100


class Kv:
    """Another module."""

    async def get(self, key: str) -> str:
        return key

    def drain(self, node: str) -> int:
        raise NotImplementedError


@pytest.fixture
def nodes(start: Callable[..., atoll.IoContext]) -> atoll.ModuleRef[Nodes]:
    """A reference to a module on a loop of its own."""
    return atoll.ModuleRef(start("nodes"), Nodes())


def test_functions_and_coroutines_run_on_the_modules_loop_and_return_their_results(
    nodes: atoll.ModuleRef[Nodes],
) -> None:
    async def main() -> None:
        assert await nodes.call(Nodes.drain, "a") == 1
        assert await nodes.call(Nodes.drain, "b", times=2) == 3
        assert await nodes.call(Nodes.drain_slowly, "c", times=2) == ["a", "b", "b", "c", "c"]
        assert await nodes.call(Nodes.where) == "nodes"

    asyncio.run(main())
    assert nodes.io_context.name == "nodes"
    assert repr(nodes) == "<ModuleRef to Nodes on loop 'nodes'>"


def test_post_does_not_wait_and_its_exception_goes_to_the_hook(
    nodes: atoll.ModuleRef[Nodes], raised: list[tuple[str, BaseException]]
) -> None:
    nodes.post(Nodes.drain, "a", times=2)
    nodes.post(Nodes.drain_slowly, "b")
    nodes.post(Nodes.fail)
    assert asyncio.run(nodes.call(Nodes.drain_slowly, "c")) == ["a", "a", "b", "c"]
    assert [name for name, _ in raised] == ["Nodes.fail"]


def test_a_calls_exception_crosses_to_the_caller(nodes: atoll.ModuleRef[Nodes], raised: list[object]) -> None:
    with pytest.raises(KeyError, match="node"):
        asyncio.run(nodes.call(Nodes.fail))
    assert not raised


def test_cancelling_the_caller_cancels_the_method(nodes: atoll.ModuleRef[Nodes]) -> None:
    async def main() -> None:
        task = asyncio.create_task(nodes.call(Nodes.endless))
        await asyncio.to_thread(nodes._module.started.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert nodes._module.ended.wait(30)


def test_a_timeout_around_a_call_cancels_the_method(nodes: atoll.ModuleRef[Nodes]) -> None:
    async def main() -> None:
        limit = asyncio.timeout(None)

        async def expire() -> None:
            await asyncio.to_thread(nodes._module.started.wait, 30)
            limit.reschedule(0.0)

        async def limited() -> None:
            async with limit:
                await nodes.call(Nodes.endless)

        expiring = asyncio.create_task(expire())
        with pytest.raises(TimeoutError):
            await limited()
        await expiring

    asyncio.run(main())
    assert nodes._module.ended.wait(30)


def test_a_call_has_its_callers_context_variables(nodes: atoll.ModuleRef[Nodes]) -> None:
    async def main() -> str:
        REQUEST.set("mine")
        return await nodes.call(Nodes.request)

    assert asyncio.run(main()) == "mine"
    assert asyncio.run(nodes.call(Nodes.request)) == "none"


def test_a_method_of_the_same_loop_may_be_called(nodes: atoll.ModuleRef[Nodes]) -> None:
    async def inside() -> int:
        return await nodes.call(Nodes.drain, "a")

    assert nodes.io_context.submit(inside).result(30) == 1


def test_an_override_is_honoured_whether_of_a_subclass_or_of_the_object(running: atoll.IoContext) -> None:
    fast: atoll.ModuleRef[Nodes] = atoll.ModuleRef(running, FastNodes())
    assert asyncio.run(fast.call(Nodes.drain, "a")) == 101
    patched = Nodes()
    patched.drain = lambda node, times=1: 42  # type: ignore[method-assign, misc]  # noqa: ARG005
    assert asyncio.run(atoll.ModuleRef(running, patched).call(Nodes.drain, "a")) == 42


def test_statistics_know_a_call_by_the_method_that_was_given(running: atoll.IoContext) -> None:
    fast: atoll.ModuleRef[Nodes] = atoll.ModuleRef(running, FastNodes())
    asyncio.run(fast.call(Nodes.drain, "a"))
    fast.post(Nodes.drain, "a")
    asyncio.run(fast.call(Base.where))
    stats = running.stats()
    assert stats["Nodes.drain"].total == 2
    assert stats["Base.where"].total == 1


def test_what_is_not_a_method_of_the_module_is_an_error_that_shows_the_right_call(
    nodes: atoll.ModuleRef[Nodes],
) -> None:
    def free(module: Nodes) -> None: ...

    cases: tuple[tuple[Any, str], ...] = (
        (Kv.get, r"Kv\.get is not a method of Nodes: .*provider\.ref\(Kv\)\.call\(Kv\.get, \.\.\.\)"),
        (Kv.drain, r"Kv\.drain is not a method of Nodes: write call\(Nodes\.drain, \.\.\.\)"),
        (nodes._module.drain, r"is bound to its object already: write call\(Nodes\.drain, \.\.\.\)"),
        ("drain", r"'drain' is a name: write call\(Nodes\.drain, \.\.\.\)"),
        (free, r"is not a method of Nodes: make it a method"),
        ([], r"\[\] is not a method of Nodes"),
    )
    for method, message in cases:
        with pytest.raises(TypeError, match=message):
            asyncio.run(nodes.call(method))
        with pytest.raises(TypeError, match=message):
            nodes.post(method)
    assert nodes.io_context.stats().total == 0


def test_wrong_arguments_are_the_callers_error(nodes: atoll.ModuleRef[Nodes]) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'tims'"):
        asyncio.run(nodes.call(Nodes.drain, "a", tims=1))  # type: ignore[call-arg, arg-type]


def test_calls_of_one_caller_start_in_their_order(nodes: atoll.ModuleRef[Nodes]) -> None:
    async def main() -> list[str]:
        for number in range(100):
            if number % 2:
                nodes.post(Nodes.drain, str(number))
            else:
                nodes.post(Base.where)
        return await nodes.call(Nodes.drain_slowly, "end")

    assert asyncio.run(main()) == [*(str(number) for number in range(1, 100, 2)), "end"]
