"""A module that a provider made may be touched on its own loop only, and all that looks at modules still works."""

# ruff: noqa: PT019 - arguments with an underscore come from `run`, not from fixtures

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import pickle
import subprocess
import sys
import types
import weakref
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock

import pytest

import atoll
from atoll import IoContextPolicy, IoContextProvider, dedicated
from atoll.errors import NotOnLoopError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

T = TypeVar("T")


class Nodes:
    """Keeps nodes."""

    LIMIT = 5

    class Config:
        """Belongs to the class."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self._secret = 1

    def add(self, name: str, /, *more: str, limit: int = 10) -> int:
        """Adds nodes."""
        self.names += [name, *more][:limit]
        return len(self.names)

    async def wait(self, seconds: float) -> int:
        """Waits."""
        await asyncio.sleep(seconds)
        return len(self.names)

    def forget(self) -> None:
        del self.names

    def again(self) -> None:
        self.names = []

    @property
    def count(self) -> int:
        return len(self.names)

    @functools.cached_property
    def slow_count(self) -> int:
        return len(self.names)

    @staticmethod
    def static(value: int) -> int:
        return value + 1

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    @functools.lru_cache(maxsize=1)  # noqa: B019 - a method like others
    def cached(self) -> int:
        return len(self.names)

    @functools.singledispatchmethod
    def dispatched(self, value: object) -> str:
        return f"{value} {len(self.names)}"

    added_twice = functools.partialmethod(add, "twice")

    def callback(self) -> Callable[[], int]:
        return functools.partial(self.add, "from elsewhere")

    def __len__(self) -> int:
        return len(self.names)


class Kv:
    """Another module, on another loop."""

    def run(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    async def run_coroutine(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        return await function(*args)


class Metrics:
    """A module of the default loop."""

    def __init__(self) -> None:
        self.seen = 0

    def see(self) -> int:
        self.seen += 1
        return self.seen


class Placement(IoContextPolicy[Nodes | Kv | Metrics]):
    """Two loops, and the default."""

    nodes = dedicated(Nodes)
    kv = dedicated(Kv)


@contextlib.asynccontextmanager
async def made() -> AsyncIterator[tuple[Nodes, IoContextProvider[Nodes | Kv | Metrics]]]:
    """A module on a loop of its own, seen from the main one."""
    async with IoContextProvider(Placement) as provider:
        nodes = await provider.create(Nodes, "a", "b")
        await provider.create(Kv)
        yield nodes, provider


def run(test: Callable[..., Awaitable[None]]) -> Callable[[], None]:
    """Runs a test's coroutine within a provider."""

    # Not functools.wraps: pytest would take the arguments for fixtures.
    def main() -> None:
        async def within() -> None:
            async with made() as (nodes, provider):
                await test(nodes, provider)

        asyncio.run(within())

    main.__name__ = main.__qualname__ = test.__name__
    return main


Provider = IoContextProvider[Nodes | Kv | Metrics]


# --------------------------------------------------------------------------------------------------- what is refused


@run
async def test_data_is_refused_on_other_loops_and_the_error_names_both(nodes: Nodes, provider: Provider) -> None:
    home = atoll.IoContext.current().name
    with pytest.raises(NotOnLoopError) as caught:
        _ = nodes.names
    assert str(caught.value) == (
        f"Nodes.names was read on loop '{home}', and the Nodes lives on loop 'nodes', where alone its data may be "
        "touched: have a method do it, await provider.ref(Nodes).call(Nodes.some_method, ...)"
    )
    with pytest.raises(NotOnLoopError, match=r"Nodes\.names was read on loop 'kv'"):
        await provider.ref(Kv).call(Kv.run, getattr, nodes, "names")
    assert await provider.io_context(Nodes).submit(getattr, nodes, "names") == ["a", "b"]


@run
async def test_data_can_be_neither_set_nor_deleted_elsewhere(nodes: Nodes, provider: Provider) -> None:
    with pytest.raises(NotOnLoopError, match=r"Nodes\.names was set on loop"):
        nodes.names = []
    with pytest.raises(NotOnLoopError, match=r"Nodes\.new was set on loop"):
        nodes.new = 1  # type: ignore[attr-defined]
    with pytest.raises(NotOnLoopError, match=r"Nodes\.names was deleted on loop"):
        del nodes.names
    assert await provider.io_context(Nodes).submit(len, nodes) == 2
    await provider.ref(Nodes).call(Nodes.forget)
    await provider.ref(Nodes).call(Nodes.again)
    assert await provider.ref(Nodes).call(Nodes.add, "c") == 1


@run
async def test_a_thread_without_a_loop_is_named(nodes: Nodes, _provider: Provider) -> None:
    with pytest.raises(NotOnLoopError, match=r"was read on thread '(asyncio|uvloop)_\d+', where no loop runs, and"):
        await asyncio.to_thread(getattr, nodes, "names")
    with pytest.raises(NotOnLoopError, match=r"Nodes\.add\(\) was called on thread '(asyncio|uvloop)_\d+', where no"):
        await asyncio.to_thread(nodes.add, "c")


@run
async def test_methods_are_refused_when_they_are_called_and_not_when_they_are_looked_up(
    nodes: Nodes, provider: Provider
) -> None:
    add = nodes.add
    with pytest.raises(NotOnLoopError) as caught:
        add("c")
    assert "Nodes.add() was called on loop" in str(caught.value)
    assert str(caught.value).endswith("write await provider.ref(Nodes).call(Nodes.add, ...)")
    with pytest.raises(NotOnLoopError, match=r"Nodes\.wait\(\) was called"):
        await nodes.wait(0)
    assert await provider.io_context(Nodes).submit(add, "c", "d") == 4
    assert await provider.io_context(Nodes).submit(nodes.wait, 0) == 4


@run
async def test_what_is_computed_from_data_is_data(nodes: Nodes, provider: Provider) -> None:
    for name in ("count", "slow_count", "_secret"):
        with pytest.raises(NotOnLoopError, match=rf"Nodes\.{name} was read"):
            getattr(nodes, name)
    assert await provider.io_context(Nodes).submit(getattr, nodes, "slow_count") == 2
    with pytest.raises(NotOnLoopError, match=r"Nodes\.slow_count was read"):
        _ = nodes.slow_count


@run
async def test_methods_of_every_kind_are_refused(nodes: Nodes, provider: Provider) -> None:
    calls: dict[str, tuple[object, ...]] = {"cached": (), "dispatched": (7,), "added_twice": ()}
    for name, arguments in calls.items():
        with pytest.raises(NotOnLoopError, match=r"was called on loop"):
            getattr(nodes, name)(*arguments)
    submit = provider.io_context(Nodes).submit
    assert await submit(nodes.cached) == 2
    assert await submit(nodes.dispatched, 7) == "7 2"
    assert await submit(nodes.added_twice) == 3


@run
async def test_a_callback_that_a_module_gave_away_is_refused_where_it_touches_data(
    _nodes: Nodes, provider: Provider
) -> None:
    callback = await provider.ref(Nodes).call(Nodes.callback)
    with pytest.raises(NotOnLoopError, match=r"Nodes\.names was read on loop 'kv'"):
        await provider.ref(Kv).call(Kv.run, callback)


@run
async def test_an_unbound_function_of_the_class_is_refused_where_it_touches_data(
    nodes: Nodes, _provider: Provider
) -> None:
    with pytest.raises(NotOnLoopError, match=r"Nodes\.names was read"):
        Nodes.add(nodes, "c")
    with pytest.raises(NotOnLoopError, match=r"Nodes\.names was read"):
        len(nodes)


@run
async def test_the_refusal_is_no_attribute_error_so_that_nobody_takes_it_for_an_absence(
    nodes: Nodes, _provider: Provider
) -> None:
    with pytest.raises(NotOnLoopError):
        hasattr(nodes, "names")
    with pytest.raises(NotOnLoopError):
        getattr(nodes, "names", None)
    assert not hasattr(nodes, "absent")
    with pytest.raises(AttributeError, match="'Nodes' object has no attribute 'absent'"):
        nodes.absent  # type: ignore[attr-defined] # noqa: B018 - the point


# --------------------------------------------------------------------------------------------------- what is allowed


@run
async def test_what_belongs_to_the_class_and_what_python_asks_for_is_free(nodes: Nodes, _provider: Provider) -> None:
    assert nodes.static(1) == 2
    assert nodes.of_class() == "Nodes"
    assert nodes.Config is Nodes.Config
    assert nodes.__class__.__qualname__ == "Nodes"
    assert nodes.__doc__ == "Keeps nodes."
    assert nodes.__dict__["names"] == ["a", "b"], "debuggers may look"
    assert repr(nodes).startswith(f"<{__name__}.Nodes object at 0x")
    assert nodes == nodes  # noqa: PLR0124 - Python's own comparison
    assert hash(nodes)
    assert weakref.ref(nodes)() is nodes
    assert "names" in dir(nodes)
    assert Nodes.LIMIT == 5
    with pytest.raises(NotOnLoopError):
        nodes.LIMIT  # noqa: B018 - an instance may have one of its own


@run
async def test_a_checked_module_is_still_what_its_class_says(nodes: Nodes, provider: Provider) -> None:
    assert isinstance(nodes, Nodes)
    assert provider.placement_of(type(nodes)) is provider.io_context(Nodes)
    made_of = type(nodes)
    assert (made_of.__name__, made_of.__qualname__, made_of.__module__) == ("Nodes", "Nodes", __name__)
    assert inspect.getsource(made_of).startswith("class Nodes:")
    assert gc.is_tracked(nodes)


@run
async def test_who_inspects_a_method_sees_the_function(nodes: Nodes, _provider: Provider) -> None:
    assert inspect.iscoroutinefunction(nodes.wait)
    if sys.version_info < (3, 14):
        assert asyncio.iscoroutinefunction(nodes.wait)  # type: ignore[deprecated] # what grpcio asks
    assert not inspect.iscoroutinefunction(nodes.add)
    assert inspect.ismethod(nodes.add)
    assert isinstance(nodes.add, types.MethodType)
    assert nodes.add.__self__ is nodes
    assert inspect.unwrap(nodes.add.__func__) is Nodes.add
    assert str(inspect.signature(nodes.add)) == "(name: 'str', /, *more: 'str', limit: 'int' = 10) -> 'int'"
    assert (nodes.add.__name__, nodes.add.__qualname__, nodes.add.__module__) == ("add", "Nodes.add", __name__)
    assert nodes.add.__doc__ == "Adds nodes."
    assert nodes.add == nodes.add
    assert nodes.add != nodes.wait
    assert len({nodes.add, nodes.add}) == 1
    assert "CheckedFunction" in repr(nodes.add.__func__)
    assert "loop 'nodes'" in repr(nodes.add.__func__)
    assert functools.wraps(nodes.add)(lambda: None).__name__ == "add"
    assert nodes.cached.cache_info().maxsize == 1


@run
async def test_a_method_looked_up_elsewhere_equals_the_one_looked_up_at_home(nodes: Nodes, provider: Provider) -> None:
    at_home = await provider.io_context(Nodes).submit(getattr, nodes, "add")
    assert nodes.add == at_home
    assert at_home == nodes.add
    assert hash(nodes.add) == hash(at_home)


@run
async def test_methods_may_be_posted_bound_and_scheduled_from_elsewhere(nodes: Nodes, provider: Provider) -> None:
    loop = provider.io_context(Nodes)
    loop.post(nodes.add, "c")
    loop.bind(nodes.add)("d")
    await loop.submit(nodes.wait, 0)
    assert await loop.submit(nodes.add, "e") == 5
    names = {handler.name for handler in loop.stats().handlers}
    assert {"Nodes.add", "Nodes.wait"} <= names
    asyncio_loop = loop.loop
    assert asyncio_loop is not None
    future = asyncio.run_coroutine_threadsafe(_wait(nodes), asyncio_loop)
    assert await asyncio.wrap_future(future) == 5


async def _wait(nodes: Nodes) -> int:
    return await nodes.wait(0)


@run
async def test_references_call_as_ever(_nodes: Nodes, provider: Provider) -> None:
    reference = provider.ref(Nodes)
    assert await reference.call(Nodes.add, "c", "d", limit=1) == 3
    assert await reference.call(Nodes.wait, 0) == 3
    reference.post(Nodes.add, "e")
    assert await provider.ref(Kv).call(Kv.run_coroutine, reference.call, Nodes.add, "f") == 5
    assert repr(reference) == "<ModuleRef to Nodes on loop 'nodes'>"


@run
async def test_a_method_that_an_instance_has_of_its_own_is_a_method_too(nodes: Nodes, provider: Provider) -> None:
    async def other(module: Nodes, seconds: float) -> str:
        return f"{seconds} {len(module.names)}"

    await provider.io_context(Nodes).submit(setattr, nodes, "wait", types.MethodType(other, nodes))
    await provider.io_context(Nodes).submit(setattr, nodes, "add", len)
    assert inspect.iscoroutinefunction(nodes.wait)
    with pytest.raises(NotOnLoopError, match=r"other\(\) was called"):
        await nodes.wait(1)
    with pytest.raises(NotOnLoopError, match=r"len\(\) was called"):
        nodes.add("c")
    submit: Callable[..., Awaitable[object]] = provider.io_context(Nodes).submit
    assert await submit(nodes.wait, 1) == "1 2"
    assert await submit(nodes.add, "ccc") == 3


@run
async def test_what_is_patched_into_the_class_counts_at_once(nodes: Nodes, provider: Provider) -> None:
    with mock.patch.object(Nodes, "add", lambda _, name: -len(name)):
        assert await provider.ref(Nodes).call(Nodes.add, "c") == -1
        with pytest.raises(NotOnLoopError):
            nodes.add("c")
    with mock.patch.object(Nodes, "add", autospec=True, return_value=9):
        assert await provider.io_context(Nodes).submit(nodes.add, "c") == 9
    assert await provider.ref(Nodes).call(Nodes.add, "c") == 3


@run
async def test_a_module_of_the_default_loop_is_free_in_its_tasks_and_callbacks(
    _nodes: Nodes, provider: Provider
) -> None:
    metrics = await provider.create(Metrics)
    assert metrics.see() == 1
    assert metrics.seen == 1
    metrics.seen = 5
    called = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: called.set_result(metrics.see()))
    assert await called == 6
    assert await provider.ref(Metrics).call(Metrics.see) == 7
    with pytest.raises(NotOnLoopError, match=r"Metrics\.seen was read on loop 'kv'"):
        await provider.ref(Kv).call(Kv.run, metrics.see)


def test_when_its_loop_has_ended_a_module_is_anybodys() -> None:
    async def main() -> tuple[Nodes, Metrics]:
        async with made() as (nodes, provider):
            return nodes, await provider.create(Metrics)

    nodes, metrics = asyncio.run(main())
    assert nodes.names == ["a", "b"]
    assert nodes.add("c") == 3
    nodes.names = []
    assert nodes.count == 0
    assert metrics.see() == 1


def test_its_end_may_come_anywhere_once_its_loop_has_ended() -> None:
    ended: list[object] = []

    class Ending:
        def __init__(self) -> None:
            self.file = "open"

        def __del__(self) -> None:
            ended.append(self.file)

    class EndingPlacement(IoContextPolicy[Ending]):
        ending = dedicated(Ending)

    async def main() -> None:
        async with IoContextProvider(EndingPlacement) as provider:
            await provider.create(Ending)

    asyncio.run(main())
    gc.collect()
    assert ended == ["open"]


AT_EXIT = """
import asyncio, atoll, os

class Module:
    def __init__(self):
        self.word = "ended"
    def __del__(self, write=os.write):
        write(1, f"{self.word} {self.say()}".encode())
    def say(self):
        return "in good order"

class Placement(atoll.IoContextPolicy[Module]):
    module = atoll.dedicated(Module)

async def main():
    provider = atoll.IoContextProvider(Placement)
    await provider.__aenter__()          # and never left: the loop is stopped at the interpreter's end
    return provider, await provider.create(Module)

kept, module = asyncio.run(main())
del kept
say = module.say                         # a function that checks, kept for the very end
module.__dict__["self"] = module
"""


def test_a_module_that_outlives_the_interpreter_ends_in_good_order() -> None:
    program = [sys.executable, "-W", "ignore::ResourceWarning", "-c", AT_EXIT]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended in good order", "")


def test_a_loop_or_a_provider_can_do_without() -> None:
    class Unchecked(IoContextPolicy[Nodes | Kv]):
        nodes = dedicated(Nodes, checked=False)
        kv = dedicated(Kv)

    async def main() -> None:
        async with IoContextProvider(Unchecked) as provider:
            nodes = await provider.create(Nodes, "a")
            assert type(nodes) is Nodes
            assert nodes.add("b") == 2
            assert type(await provider.create(Kv)) is not Kv
        async with IoContextProvider(Placement, checked=False) as unchecked:
            assert type(await unchecked.create(Kv)) is Kv
            assert type(await unchecked.create(Metrics)) is Metrics

    asyncio.run(main())


def test_modules_of_two_providers_are_told_apart() -> None:
    async def main() -> None:
        async with made() as (nodes, provider), IoContextProvider(Other) as other:
            others = await other.create(Nodes, "c")
            assert type(others) is not type(nodes)
            assert await other.ref(Nodes).call(Nodes.add, "d") == 2
            with pytest.raises(NotOnLoopError, match="on loop 'other', and the Nodes lives on loop 'nodes'"):
                await other.io_context(Nodes).submit(nodes.add, "e")
            with pytest.raises(NotOnLoopError, match="on loop 'nodes', and the Nodes lives on loop 'other'"):
                await provider.io_context(Nodes).submit(others.add, "e")

    class Other(IoContextPolicy[Nodes]):
        other = dedicated(Nodes)

    asyncio.run(main())


def test_a_pickled_module_fails_with_its_own_name() -> None:
    async def main() -> None:
        async with made() as (_, provider):
            nodes = provider.ref(Nodes)._module
            with pytest.raises(pickle.PicklingError, match="Nodes"):
                await provider.io_context(Nodes).submit(pickle.dumps, nodes)

    asyncio.run(main())


def test_threads_that_fight_over_a_module_are_refused_every_time_and_its_own_loop_never() -> None:
    refusals: list[int] = []

    def fight(nodes: Nodes) -> None:
        refused = 0
        for _ in range(300):
            try:
                nodes.names.append("x")
            except NotOnLoopError:
                refused += 1
        refusals.append(refused)

    async def main() -> None:
        async with made() as (nodes, provider):
            fights = [asyncio.to_thread(fight, nodes) for _ in range(3)]
            adding = [provider.ref(Nodes).call(Nodes.add, "y") for _ in range(200)]
            await asyncio.gather(*fights, *adding)
            assert await provider.ref(Nodes).call(Nodes.add, "z") == 203

    asyncio.run(main())
    assert refusals == [300, 300, 300]
