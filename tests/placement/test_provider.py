"""A provider starts loops, makes modules on them, finds them, and stops both."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

import atoll
from atoll import IoContextPolicy, IoContextProvider, dedicated
from atoll.errors import LoopClosedError, PlacementError
from atoll.loop import gil_is_enabled


class Module:
    """Notes what happens to it, and on which loop."""

    events: ClassVar[list[str]] = []

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.arguments = (args, kwargs)
        self.note("init")

    def note(self, event: str) -> None:
        self.events.append(f"{type(self).__name__} {event} on {atoll.IoContext.current().name}")

    def given(self) -> tuple[tuple[object, ...], dict[str, object]]:
        return self.arguments

    def where(self) -> str:
        return threading.current_thread().name


class Nodes(Module):
    """Has both hooks."""

    async def start(self) -> None:
        await asyncio.sleep(0)
        self.note("start")

    async def stop(self) -> None:
        await asyncio.sleep(0)
        self.note("stop")


class Kv(Module):
    """Has RPCs that are named like hooks."""

    async def start(self, request: object, context: object) -> None:
        raise AssertionError(request, context)

    def stop(self) -> None:
        raise AssertionError("no coroutine function, and so no hook")


class Metrics(Module):
    """Is placed nowhere."""

    async def stop(self) -> None:
        self.note("stop")


class FastNodes(Nodes):
    """A subclass of a module."""


class Stranger(Module):
    """Belongs to no policy."""


class Placement(IoContextPolicy[Nodes | Kv | Metrics]):
    """Two loops, and the default."""

    nodes = dedicated(Nodes)
    kv = dedicated(Kv, max_queued=7)


def join(*names: str) -> None:
    """Waits for threads that have been asked to end."""
    for thread in threading.enumerate():
        if thread.name in names:
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def events() -> list[str]:
    """What happened to modules."""
    Module.events.clear()
    return Module.events


class Stubborn(Module):
    """Starts all the same when its start is cancelled, or doesn't."""

    ends_by: ClassVar[type[BaseException] | None] = None

    def __init__(self, entered: threading.Event, go_on: asyncio.Event) -> None:
        super().__init__()
        self.entered, self.go_on = entered, go_on

    async def start(self) -> None:
        self.entered.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            await self.go_on.wait()
        if self.ends_by is not None:
            raise self.ends_by("as it should")
        self.note("start")

    async def stop(self) -> None:
        self.note("stop")


class StubbornPlacement(IoContextPolicy[Stubborn]):
    """One loop."""

    stubborn = dedicated(Stubborn)


async def cancelled_while_it_starts(provider: IoContextProvider[Stubborn]) -> Callable[[], None]:
    """Creates the module, gives up while its `start()` runs, and returns what lets that end."""
    entered, go_on = threading.Event(), asyncio.Event()
    creating = asyncio.create_task(provider.create(Stubborn, entered, go_on))
    assert await asyncio.to_thread(entered.wait, 30)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    home = provider.io_context(Stubborn)
    return lambda: home.post(go_on.set)


def thread_names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_modules_are_made_started_and_stopped_on_their_loops_in_reverse(events: list[str]) -> None:
    async def main() -> None:
        async with IoContextProvider(Placement) as provider:
            assert {"nodes", "kv"} <= thread_names()
            nodes = await provider.create(Nodes, 1, region="here")
            assert isinstance(nodes, Nodes)
            assert await provider.ref(Nodes).call(Nodes.given) == ((1,), {"region": "here"})
            await provider.create(Metrics)
            await provider.create(Kv)
        assert not {"nodes", "kv"} & thread_names()

    asyncio.run(main())
    assert events == [
        "Nodes init on nodes",
        "Nodes start on nodes",
        "Metrics init on MainThread",
        "Kv init on kv",
        "Metrics stop on MainThread",
        "Nodes stop on nodes",
    ]


def test_a_provider_knows_the_loop_of_every_module() -> None:
    async def main() -> None:
        async with IoContextProvider(Placement) as provider:
            assert provider.io_context(Nodes).name == "nodes"
            assert provider.io_context(FastNodes) is provider.io_context(Nodes)
            assert provider.io_context(Metrics) is atoll.IoContext.current()
            assert provider.placement_of(Kv) is provider.io_context(Kv)
            assert provider.placement_of(FastNodes) is provider.io_context(Nodes)
            assert provider.placement_of(Metrics) is atoll.IoContext.current()
            assert provider.placement_of(Stranger) is None
            assert [io_context.name for io_context in provider.io_contexts] == ["nodes", "kv", "MainThread"]

    asyncio.run(main())


def test_the_default_loop_may_be_given_and_is_not_stopped() -> None:
    async def main() -> None:
        async with IoContextProvider(Placement, default=thread.io_context) as provider:
            assert provider.io_context(Metrics) is thread.io_context
            await provider.create(Metrics)
            assert Module.events == ["Metrics init on given"]
            assert await provider.ref(Metrics).call(Metrics.where) == "given"
            assert await provider.ref(Metrics).call(Metrics.given) == ((), {})

    with atoll.IoContextThread("given") as thread:
        asyncio.run(main())
        assert thread.io_context.submit(max, 1, 2).result(30) == 2


def test_options_reach_the_loops() -> None:
    async def main() -> None:
        release = threading.Event()
        async with IoContextProvider(Placement) as provider:
            kv = provider.io_context(Kv)
            blocked = kv.submit(release.wait, 30)
            await asyncio.to_thread(_wait_until_running, kv)
            for _ in range(7):
                kv.post(lambda: None)
            with pytest.raises(atoll.MailboxFull):
                kv.post(lambda: None)
            release.set()
            await blocked

    asyncio.run(main())


def _wait_for(event: str) -> None:
    while event not in Module.events:
        pass


def _wait_until_running(io_context: atoll.IoContext) -> None:
    while not io_context.stats().running:
        pass


def test_modules_call_each_other_through_references() -> None:
    async def main() -> None:
        async with IoContextProvider(Placement) as provider:
            await provider.create(Nodes)
            await provider.create(Kv)
            ref = provider.ref(Nodes)
            assert await ref.call(Nodes.where) == "nodes"
            assert await provider.io_context(Kv).submit(ref.call, Nodes.where) == "nodes"

    asyncio.run(main())


def test_a_subclass_may_be_made_for_a_module() -> None:
    async def main() -> None:
        async with IoContextProvider(Placement) as provider:
            with pytest.raises(
                PlacementError, match=r"Nodes has not been created yet: await provider\.create\(Nodes\)"
            ):
                provider.ref(Nodes)
            fast = await provider.create(FastNodes)
            assert provider.ref(Nodes)._module is fast
            assert provider.ref(FastNodes)._module is fast
            with pytest.raises(PlacementError, match="has been created already"):
                await provider.create(Nodes)

    asyncio.run(main())


def test_a_reference_to_a_subclass_that_was_not_made_is_an_error() -> None:
    async def main() -> None:
        async with IoContextProvider(Placement) as provider:
            await provider.create(Nodes)
            with pytest.raises(PlacementError, match=r"is a Nodes, not a FastNodes: write ref\(Nodes\)"):
                provider.ref(FastNodes)

    asyncio.run(main())


def test_a_module_is_made_once_also_when_two_tasks_try_at_the_same_time() -> None:
    async def main() -> None:
        async with IoContextProvider(Placement) as provider:
            outcomes = await asyncio.gather(*(provider.create(Nodes) for _ in range(2)), return_exceptions=True)
            assert [isinstance(outcome, Nodes) for outcome in outcomes] == [True, False]
            assert isinstance(outcomes[1], PlacementError)
            assert "use provider.ref(Nodes)" in str(outcomes[1])
            assert Module.events.count("Nodes init on nodes") == 1

    asyncio.run(main())


class Failing(Module):
    """Fails where it is told to."""

    async def start(self) -> None:
        if self.arguments[0] == ("start",):
            raise ValueError("start")
        if self.arguments[0] == ("endless",):
            await asyncio.sleep(3600)

    async def stop(self) -> None:
        self.note("stop")
        if self.arguments[0] == ("stop",):
            raise ValueError("stop")
        if self.arguments[0] == ("stuck",):
            await asyncio.sleep(3600)


class FailingConstructor(Failing):
    """Fails when it is made."""

    def __init__(self) -> None:
        raise ValueError("constructor")


class FailingPlacement(IoContextPolicy[Failing | Nodes]):
    """A module that fails, and one that must not suffer from it."""

    failing = dedicated(Failing)
    nodes = dedicated(Nodes)


def test_a_failure_in_constructor_or_start_reaches_the_creator_and_leaves_nothing_behind(events: list[str]) -> None:
    async def main() -> None:
        async with IoContextProvider(FailingPlacement) as provider:
            with pytest.raises(ValueError, match="constructor"):
                await provider.create(FailingConstructor)
            with pytest.raises(ValueError, match="start"):
                await provider.create(Failing, "start")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await provider.create(Failing, "endless")
            with pytest.raises(PlacementError, match="has not been created"):
                provider.ref(Failing)
            await provider.create(Failing)

    asyncio.run(main())
    assert events.count("Failing stop on failing") == 1, "only what was created is stopped"


def test_a_failing_stop_is_raised_as_a_group_and_harms_no_other(
    events: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with IoContextProvider(FailingPlacement) as provider:
            await provider.create(Nodes)
            await provider.create(Failing, "stop")

    with pytest.raises(ExceptionGroup, match="FailingPlacement did not stop cleanly") as caught:
        asyncio.run(main())
    [problem] = caught.value.exceptions
    assert isinstance(problem, ValueError)
    assert problem.__notes__ == ["raised by Failing.stop()"]
    assert events[-1] == "Nodes stop on nodes"
    assert not {"failing", "nodes"} & thread_names()
    assert "while the provider of FailingPlacement stopped: stop" in caplog.text


def test_the_exception_of_the_block_is_not_replaced_by_a_failing_stop() -> None:
    async def main() -> None:
        async with IoContextProvider(FailingPlacement) as provider:
            await provider.create(Failing, "stop")
            raise KeyError("block")

    with pytest.raises(KeyError, match="block") as caught:
        asyncio.run(main())
    assert caught.value.__notes__ == ["While the provider of FailingPlacement stopped: ValueError('stop')"]


def test_a_module_that_does_not_stop_in_time_is_named_and_the_others_are_stopped(events: list[str]) -> None:
    async def main() -> None:
        async with IoContextProvider(FailingPlacement, stop_timeout=0.05) as provider:
            await provider.create(Nodes)
            await provider.create(Failing, "stuck")

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    [problem] = caught.value.exceptions
    assert isinstance(problem, TimeoutError)
    assert "Failing.stop() did not end within stop_timeout=0.05" in str(problem)
    assert events[-1] == "Nodes stop on nodes"
    assert not {"failing", "nodes"} & thread_names()


def test_a_loop_that_does_not_stop_in_time_is_named_and_the_others_are_stopped() -> None:
    release = threading.Event()
    block = release.wait

    async def main() -> None:
        async with IoContextProvider(FailingPlacement, stop_timeout=0.05) as provider:
            provider.io_context(Nodes).post(block, 30, name="Nodes.block")
            await asyncio.to_thread(_wait_until_running, provider.io_context(Nodes))

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert "loop 'nodes' has not stopped, its running handlers: Nodes.block" in str(caught.value.exceptions[0])
    assert "failing" not in thread_names()
    release.set()
    join("nodes")


def test_a_loop_that_a_handler_ended_is_part_of_what_went_wrong(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with IoContextProvider(FailingPlacement) as provider:
            await provider.create(Nodes)
            provider.io_context(Nodes).post(sys.exit, 3)
            await asyncio.to_thread(_wait_until_closed, provider.io_context(Nodes))

    with pytest.raises(BaseExceptionGroup) as caught:
        asyncio.run(main())
    assert [type(problem) for problem in caught.value.exceptions] == [LoopClosedError, SystemExit]
    assert caught.value.exceptions[1].__notes__ == ["it ended loop 'nodes'"]
    assert "loop nodes ended before its time" in caplog.text


def _wait_until_closed(io_context: atoll.IoContext) -> None:
    while True:
        try:
            io_context.post(lambda: None)
        except LoopClosedError:
            return
        except atoll.MailboxFull:
            continue


def test_cancelling_the_block_stops_everything(events: list[str]) -> None:
    async def serve(entered: asyncio.Event) -> None:
        async with IoContextProvider(Placement) as provider:
            await provider.create(Nodes)
            entered.set()
            await asyncio.sleep(3600)

    async def main() -> None:
        entered = asyncio.Event()
        task = asyncio.create_task(serve(entered))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert events[-1] == "Nodes stop on nodes"
    assert not {"nodes", "kv"} & thread_names()


def test_cancelling_the_exit_still_stops_the_loops() -> None:
    async def serve() -> None:
        async with IoContextProvider(FailingPlacement) as provider:
            await provider.create(Failing, "stuck")

    async def main() -> None:
        task = asyncio.create_task(serve())
        await asyncio.to_thread(_wait_for, "Failing stop on failing")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    join("failing", "nodes")


def test_modules_may_use_references_while_they_stop_but_nothing_new_is_made() -> None:
    class Leaving(Module):
        provider: ClassVar[IoContextProvider[Any]]

        async def stop(self) -> None:
            assert await self.provider.ref(Nodes).call(Nodes.where) == "nodes"
            with pytest.raises(PlacementError, match="the provider stops, and creates no more modules"):
                await self.provider.create(Metrics)
            self.note("stopped")

    class LeavingPlacement(IoContextPolicy[Leaving | Nodes | Metrics]):
        leaving = dedicated(Leaving)
        nodes = dedicated(Nodes)

    async def main() -> None:
        async with IoContextProvider(LeavingPlacement) as Leaving.provider:
            await Leaving.provider.create(Nodes)
            await Leaving.provider.create(Leaving)

    asyncio.run(main())
    assert "Leaving stopped on leaving" in Module.events


def test_outside_its_block_a_provider_is_of_no_use_and_says_so() -> None:
    async def main() -> None:
        provider = IoContextProvider(Placement)
        assert repr(provider) == "<IoContextProvider of Placement, new>"
        with pytest.raises(PlacementError, match=r"write `async with IoContextProvider\(Placement\) as provider:`"):
            provider.io_context(Nodes)
        with pytest.raises(PlacementError, match="has not been entered"):
            await provider.create(Nodes)
        with pytest.raises(PlacementError, match="has not been entered"):
            provider.placement_of(Nodes)
        assert not list(provider.io_contexts)
        async with provider:
            assert len(provider.io_contexts) == 3
        assert not list(provider.io_contexts)
        for use in (provider.io_context, provider.ref, provider.placement_of):
            with pytest.raises(PlacementError, match="has been left and its loops are gone"):
                use(Nodes)
        with pytest.raises(PlacementError, match="entered once"):
            async with provider:
                pass

    asyncio.run(main())


def test_what_the_policy_does_not_cover_is_an_error_that_shows_the_right_policy() -> None:
    async def main() -> None:
        async with IoContextProvider(Placement) as provider:
            right = r"write class Placement\(IoContextPolicy\[Nodes \| Kv \| Metrics \| Stranger\]\)"
            with pytest.raises(PlacementError, match=right):
                provider.io_context(Stranger)  # type: ignore[arg-type]
            with pytest.raises(PlacementError, match=right):
                provider.ref(Stranger)  # type: ignore[arg-type]
            with pytest.raises(PlacementError, match=right):
                await provider.create(Stranger)  # type: ignore[arg-type]
            with pytest.raises(PlacementError, match="is not a class: a module is named by its class"):
                provider.io_context(Nodes.where)  # type: ignore[arg-type]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Nodes,), "is not a policy: derive one"),
        ((IoContextPolicy,), "is not a policy: derive one"),
        (("Placement",), "is not a policy: derive one"),
    ],
)
def test_what_is_no_policy_is_an_error_at_construction(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(PlacementError, match=message):
        IoContextProvider(*arguments)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"default": "main"}, "default='main' is not a loop: pass an IoContext"),
        ({"switch_interval": 0.0}, "switch_interval=0.0 is not a positive number"),
        ({"start_timeout": 0}, "start_timeout=0 is not a positive number"),
        ({"stop_timeout": -1.0}, "stop_timeout=-1.0 is not a positive number"),
        ({"stop_timeout": float("nan")}, "stop_timeout=nan is not a positive number"),
    ],
)
def test_an_argument_that_can_not_work_is_an_error_at_construction(option: dict[str, Any], message: str) -> None:
    with pytest.raises(PlacementError, match=message):
        IoContextProvider(Placement, **option)


def test_a_loop_with_the_default_loops_name_is_an_error_before_anything_starts() -> None:
    class Clash(IoContextPolicy[Nodes]):
        nodes = dedicated(Nodes, name="MainThread")

    async def main() -> None:
        with pytest.raises(PlacementError, match="names a loop 'MainThread', as the default loop is named"):
            async with IoContextProvider(Clash):
                pass

    asyncio.run(main())


def test_the_start_logs_which_module_lives_where(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with IoContextProvider(Placement):
            pass

    with caplog.at_level(logging.INFO, logger="atoll.placement"):
        asyncio.run(main())
    assert [record.getMessage() for record in caplog.records if record.name == "atoll.placement"] == [
        "loop nodes: Nodes",
        "loop kv: Kv",
        "default loop MainThread: Metrics",
    ]


@pytest.mark.skipif(not gil_is_enabled(), reason="there is no GIL to pass on")
def test_two_loops_or_more_shorten_the_switch_interval_and_the_end_restores_it() -> None:
    class One(IoContextPolicy[Nodes]):
        other = dedicated(Nodes)

    def interval() -> float:
        return round(sys.getswitchinterval(), 6)

    async def main() -> None:
        before = interval()
        async with IoContextProvider(Placement):
            assert interval() == 0.0005
            async with IoContextProvider(FailingPlacement2, switch_interval=0.0002):
                assert interval() == 0.0002
            assert interval() == 0.0005
        assert interval() == before
        async with IoContextProvider(Placement, switch_interval=None):
            assert interval() == before
        async with IoContextProvider(One):
            assert interval() == before

    asyncio.run(main())


class FailingPlacement2(IoContextPolicy[Failing | Kv]):
    """For a provider within another one."""

    inner_failing = dedicated(Failing)
    inner_kv = dedicated(Kv)


def test_a_module_that_starts_after_its_create_was_cancelled_is_known_and_stopped(events: list[str]) -> None:
    async def main() -> None:
        async with IoContextProvider(StubbornPlacement) as provider:
            let_go = await cancelled_while_it_starts(provider)
            with pytest.raises(PlacementError, match="has not been created"):
                provider.ref(Stubborn)
            again = asyncio.create_task(provider.create(Stubborn, threading.Event(), asyncio.Event()))
            await asyncio.sleep(0.05)
            assert not again.done(), "it waits for what becomes of the first"
            let_go()
            with pytest.raises(PlacementError, match="created already"):
                await again
            await provider.ref(Stubborn).call(Stubborn.where)

    asyncio.run(main())
    assert events == [f"Stubborn {event} on stubborn" for event in ("init", "start", "stop")]


def test_the_end_waits_for_a_module_that_still_starts_and_stops_it(events: list[str]) -> None:
    async def main() -> None:
        async with IoContextProvider(StubbornPlacement, stop_timeout=60) as provider:
            let_go = await cancelled_while_it_starts(provider)
            provider.io_context(Stubborn).post(let_go, delay=0.05)

    asyncio.run(main())
    assert events == [f"Stubborn {event} on stubborn" for event in ("init", "start", "stop")]


def test_a_module_that_never_ends_its_start_is_named_at_the_end(events: list[str]) -> None:
    async def main() -> None:
        async with IoContextProvider(StubbornPlacement, stop_timeout=0.05) as provider:
            await cancelled_while_it_starts(provider)

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert any("Stubborn.start() did not end within stop_timeout=0.05" in str(each) for each in caught.value.exceptions)
    assert events == ["Stubborn init on stubborn"]


def test_what_a_module_raises_after_its_create_was_cancelled_is_logged_and_it_may_be_created_again(
    events: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(Stubborn, "ends_by", ValueError)
        async with IoContextProvider(StubbornPlacement) as provider:
            let_go = await cancelled_while_it_starts(provider)
            let_go()
            await provider.io_context(Stubborn).submit(monkeypatch.setattr, Stubborn, "ends_by", None, delay=0.05)
            with pytest.raises(PlacementError, match="has not been created"):
                provider.ref(Stubborn)
            entered, go_on = threading.Event(), asyncio.Event()
            go_on.set()
            await provider.create(Stubborn, entered, go_on)

    asyncio.run(main())
    assert "Stubborn was not created: its create() had been cancelled" in caplog.text
    assert "ValueError: as it should" in caplog.text
    assert events == [f"Stubborn {event} on stubborn" for event in ("init", "init", "start", "stop")]


def test_a_module_that_was_never_begun_when_its_create_was_cancelled_may_be_created(events: list[str]) -> None:
    async def main() -> None:
        async with IoContextProvider(Placement) as provider:
            entered, end = threading.Event(), threading.Event()

            def block() -> None:
                entered.set()
                end.wait(30)

            provider.io_context(Nodes).post(block)
            assert await asyncio.to_thread(entered.wait, 30)
            creating = asyncio.create_task(provider.create(Nodes))
            await asyncio.sleep(0)
            creating.cancel()
            with pytest.raises(asyncio.CancelledError):
                await creating
            end.set()
            await provider.create(Nodes)

    asyncio.run(main())
    assert events == [f"Nodes {event} on nodes" for event in ("init", "start", "stop")]
