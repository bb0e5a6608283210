"""`IoContextPool`: which loop a key has, order, start and stop, and what happens when nobody stops it."""

from __future__ import annotations

import asyncio
import collections
import gc
import logging
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import atoll
from atoll.errors import DeadlockError, LoopClosedError, LoopRunningError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


@pytest.fixture
def pool(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[atoll.IoContextPool]:
    """A pool of three loops that run."""
    with atoll.IoContextPool(3, "workers", loop_factory=loop_factory) as pool:
        yield pool


# -------------------------------------------------------------------------------------------------- choosing a loop


def test_the_loops_are_numbered_and_run_on_threads_of_their_own_that_carry_their_names(
    pool: atoll.IoContextPool,
) -> None:
    names = [io_context.name for io_context in pool.all()]
    assert names == ["workers-0", "workers-1", "workers-2"]
    assert (pool.name, pool.size) == ("workers", 3)
    for io_context in pool.all():
        assert io_context.submit(lambda: threading.current_thread().name).result(30) == io_context.name
    assert repr(pool) == "<IoContextPool 'workers' of 3 loops, running>"


def test_get_gives_the_loops_in_turn_beginning_with_the_first(pool: atoll.IoContextPool) -> None:
    assert [pool.get().name for _ in range(7)] == [f"workers-{number % 3}" for number in range(7)]


def test_a_key_does_not_take_a_turn(pool: atoll.IoContextPool) -> None:
    assert pool.get() is pool.all()[0]
    pool.get(2)
    pool.get("key")
    assert pool.get() is pool.all()[1]


def test_get_with_a_number_is_that_number_modulo_the_size(pool: atoll.IoContextPool) -> None:
    wanted = {0: 0, 1: 1, 2: 2, 3: 0, -1: 2, -3: 0, -4: 2, 2**64: 1, -(2**64): 2}
    for key, number in wanted.items():
        assert pool.get(key) is pool.all()[number], key
    assert pool.get(True) is pool.get(1)


def test_any_hashable_is_a_key_none_too(pool: atoll.IoContextPool) -> None:
    keys: list[Hashable] = [
        None,
        "connection",
        b"\0",
        ("tenant", 5),
        frozenset({1}),
        1.5,
        float("nan"),
        float("inf"),
        int,
    ]
    for key in keys:
        assert pool.get(key) is pool.get(key), key


def test_a_key_without_a_hash_is_an_error_that_says_what_to_give(pool: atoll.IoContextPool) -> None:
    key: Any = ["connection", 5]
    with pytest.raises(TypeError, match=r"key=\['connection', 5\] has no hash: give a number, a string or a tuple"):
        pool.get(key)


def test_threads_that_ask_at_once_get_every_loop_and_equally_often(pool: atoll.IoContextPool) -> None:
    counts: collections.Counter[str] = collections.Counter()
    lock = threading.Lock()
    together = threading.Barrier(4)

    def ask() -> None:
        together.wait(30)
        got = collections.Counter(pool.get().name for _ in range(3_000))
        with lock:
            counts.update(got)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.total() == 12_000
    if sys.version_info >= (3, 14) or getattr(sys, "_is_gil_enabled", lambda: True)():
        assert counts == {"workers-0": 4_000, "workers-1": 4_000, "workers-2": 4_000}
    else:
        assert all(counts[f"workers-{number}"] > 0 for number in range(3))


def test_what_is_posted_for_one_key_runs_in_order_and_needs_no_lock(pool: atoll.IoContextPool) -> None:
    class Connection:
        def __init__(self) -> None:
            self.seen: list[int] = []
            self.inside = False

        def receive(self, number: int) -> None:
            assert not self.inside
            self.inside = True
            self.seen.append(number)
            self.inside = False

    connections = {f"connection {number}": Connection() for number in range(10)}
    for number in range(200):
        for key, connection in connections.items():
            pool.get(key).post(connection.receive, number)
    for io_context in pool.all():
        io_context.submit(lambda: None).result(30)
    assert all(connection.seen == list(range(200)) for connection in connections.values())
    assert sum(io_context.stats().errors for io_context in pool.all()) == 0


def test_each_loop_measures_what_it_runs(pool: atoll.IoContextPool) -> None:
    for key in (0, 0, 1):
        pool.get(key).submit(lambda: None, name="work").result(30)
    assert [io_context.stats()["work"].total for io_context in pool.all()[:2]] == [2, 1]


# -------------------------------------------------------------------------------------------------------- its life


def test_the_settings_are_those_of_every_loop(raised: list[tuple[str, BaseException]]) -> None:
    hook: Any = raised
    with atoll.IoContextPool(2, "set", exception_hook=hook, recording=False) as pool:
        for io_context in pool.all():
            io_context.post(int, "five", name="broken")
            io_context.submit(lambda: None).result(30)
    assert [name for name, _ in raised] == ["broken", "broken"]


def test_with_a_seed_the_loops_draw_different_numbers_the_same_in_every_run() -> None:
    def draws() -> list[float]:
        with atoll.IoContextPool(3, "dice", seed=7) as pool:
            return [io_context.submit(io_context.random.random).result(30) for io_context in pool.all()]

    numbers = draws()
    assert numbers == draws()
    assert len(set(numbers)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size=0 is not a whole number of loops from 1 to 1000"),
        ({"size": -1}, "size=-1 is not"),
        ({"size": 1_001}, "size=1001 is not"),
        ({"size": 1.5}, "size=1.5 is not"),
        ({"size": "3"}, "size='3' is not"),
        ({"name": ""}, "a pool needs a name"),
        ({"max_queued": 0}, "max_queued=0"),
    ],
)
def test_a_setting_that_can_not_work_is_an_error_at_construction(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        atoll.IoContextPool(**{"size": 1, "name": "bad", **arguments})


def use_with_get(pool: atoll.IoContextPool) -> object:
    return pool.get()


def use_with_key(pool: atoll.IoContextPool) -> object:
    return pool.get(5)


def use_with_all(pool: atoll.IoContextPool) -> object:
    return pool.all()


@pytest.mark.parametrize("use", [use_with_get, use_with_key, use_with_all])
def test_use_before_the_run_and_after_the_stop_is_an_error_that_says_so(
    use: Callable[[atoll.IoContextPool], object],
) -> None:
    pool = atoll.IoContextPool(2, "workers")
    with pytest.raises(LoopRunningError, match=r"pool 'workers' does not run yet: run\(\) it first"):
        use(pool)
    with pool:
        use(pool)
    with pytest.raises(LoopClosedError, match="pool 'workers' has been stopped: construct a new IoContextPool"):
        use(pool)


def test_a_pool_runs_once() -> None:
    pool = atoll.IoContextPool(2, "once")
    with pool, pytest.raises(LoopRunningError, match="pool 'once' runs already"):
        pool.run()
    with pytest.raises(LoopClosedError, match="has been stopped"):
        pool.run()
    assert repr(pool) == "<IoContextPool 'once' of 2 loops, stopped>"


def test_stop_ends_all_threads_closes_the_loops_and_may_be_called_again() -> None:
    pool = atoll.IoContextPool(3, "ending")
    pool.run()
    contexts = pool.all()
    left = [io_context.submit(print, delay=3600) for io_context in contexts]
    pool.stop()
    pool.stop()
    assert all(future.cancelled() for future in left)
    assert not names_of_threads() & {"ending-0", "ending-1", "ending-2"}
    for io_context in contexts:
        with pytest.raises(LoopClosedError):
            io_context.post(print)


def test_a_pool_that_never_ran_may_be_stopped_and_then_never_runs() -> None:
    pool = atoll.IoContextPool(2, "never")
    pool.stop()
    with pytest.raises(LoopClosedError):
        pool.run()


def test_when_a_loop_can_not_start_those_that_run_are_stopped_again() -> None:
    made: list[asyncio.AbstractEventLoop] = []
    making = threading.Lock()

    def third_is_broken() -> asyncio.AbstractEventLoop:
        with making:  # the loops are made by their threads, at once
            if len(made) >= 2:
                raise OSError("no more loops")
            made.append(asyncio.new_event_loop())
            return made[-1]

    pool = atoll.IoContextPool(4, "partial", loop_factory=third_is_broken)
    with pytest.raises(OSError, match="no more loops"):
        pool.run()
    assert not {name for name in names_of_threads() if name.startswith("partial")}
    assert all(loop.is_closed() for loop in made)
    with pytest.raises(LoopClosedError, match="has been stopped"):
        pool.get()


def test_when_a_thread_can_not_start_those_that_run_are_stopped_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "few-1":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool = atoll.IoContextPool(3, "few")
    with pytest.raises(RuntimeError, match="can't start new thread"):
        pool.run()
    assert not {name for name in names_of_threads() if name.startswith("few")}


def test_a_pool_that_is_stopped_while_it_starts_says_so() -> None:
    starting, release = threading.Event(), threading.Event()

    def slow() -> asyncio.AbstractEventLoop:
        starting.set()
        assert release.wait(30)
        return asyncio.new_event_loop()

    pool = atoll.IoContextPool(2, "hasty", loop_factory=slow)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            pool.run()
        except LoopClosedError as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    assert starting.wait(30)
    with pytest.raises(LoopRunningError, match="does not run yet"):
        pool.get()
    with pytest.raises(TimeoutError):
        pool.stop(0.01)
    release.set()
    thread.join(30)
    pool.stop()
    assert len(failures) == 1


def test_stop_names_every_loop_that_does_not_stop_and_what_it_runs() -> None:
    release = threading.Event()
    pool = atoll.IoContextPool(3, "stuck")
    pool.run()
    for number in (0, 2):
        blocked = threading.Event()

        def block(blocked: threading.Event = blocked) -> None:
            blocked.set()
            release.wait(30)

        pool.get(number).post(block, name=f"Blocker.{number}")
        assert blocked.wait(30)
    with pytest.raises(TimeoutError) as caught:
        pool.stop(0.01)
    assert str(caught.value) == (
        "pool 'stuck' has not stopped after 0.01 s: loop 'stuck-0' runs on, its running handlers: Blocker.0; "
        "loop 'stuck-2' runs on, its running handlers: Blocker.2"
    )
    release.set()
    pool.stop()


def test_waiting_for_its_own_end_is_an_error_with_the_remedy_and_stops_nothing() -> None:
    with atoll.IoContextPool(2, "own") as pool:
        future = pool.get(1).submit(pool.stop)
        with pytest.raises(DeadlockError, match=r"of loop 'own-1' itself.*: stop the pool on another thread"):
            future.result(30)
        assert pool.get(0).submit(max, 1, 2).result(30) == 2


def test_what_ended_loops_before_their_time_is_raised_by_stop(caplog: pytest.LogCaptureFixture) -> None:
    pool = atoll.IoContextPool(3, "ended")
    pool.run()
    with caplog.at_level(logging.CRITICAL, logger="atoll.loop"):
        with pytest.raises(SystemExit):
            pool.get(0).submit(sys.exit, 3).result(30)
        with pytest.raises(SystemExit) as caught:
            pool.stop()
    assert caught.value.code == 3
    with pytest.raises(SystemExit):
        pool.stop()


def test_more_than_one_failure_is_raised_as_a_group(caplog: pytest.LogCaptureFixture) -> None:
    pool = atoll.IoContextPool(3, "ended")
    pool.run()
    with caplog.at_level(logging.CRITICAL, logger="atoll.loop"):
        for number in (0, 1):
            with pytest.raises(SystemExit):
                pool.get(number).submit(sys.exit, number).result(30)
        with pytest.raises(BaseExceptionGroup) as caught:
            pool.stop()
    assert [failure.code for failure in caught.value.exceptions if isinstance(failure, SystemExit)] == [0, 1]


def test_on_an_asyncio_loop_it_can_be_stopped_without_blocking_what_its_handlers_wait_for() -> None:
    async def main() -> None:
        with atoll.IoContextPool(2, "workers") as pool:
            blocked, release = threading.Event(), threading.Event()

            def block() -> bool:
                blocked.set()
                return release.wait(30)

            outcome = pool.get().submit(block)
            assert blocked.wait(30)
            asyncio.get_running_loop().call_later(0.01, release.set)
            await asyncio.to_thread(pool.stop)
            assert await outcome

    asyncio.run(main())


# ------------------------------------------------------------------------------------------- when nobody stops it


def test_a_pool_that_nobody_stopped_warns_once_at_its_collection_and_its_loops_end() -> None:
    pool = atoll.IoContextPool(3, "forgotten")
    pool.run()
    ended = [thread._runner.ended for thread in pool._threads]
    with pytest.warns(ResourceWarning) as warned:
        del pool
    assert [str(each.message) for each in warned] == [
        "the pool 'forgotten' of 3 loops was never stopped: use it in a `with` block, or stop() it"
    ]
    for future in ended:
        future.result(30)


def test_holding_its_loops_does_not_keep_a_pool_alive() -> None:
    pool = atoll.IoContextPool(2, "held")
    pool.run()
    contexts = pool.all()
    ended = [thread._runner.ended for thread in pool._threads]
    with pytest.warns(ResourceWarning, match="held"):
        del pool
    for future in ended:
        future.result(30)
    with pytest.raises(LoopClosedError):
        contexts[0].post(print)


def test_a_pool_that_never_ran_or_was_stopped_is_collected_in_silence() -> None:
    never = atoll.IoContextPool(2, "never")
    with atoll.IoContextPool(2, "stopped") as stopped:
        pass
    del never, stopped
    gc.collect()


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "default::ResourceWarning", "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "work",
    [
        "pass",
        "pool.get().post(asyncio.sleep, 3600)",
        "del pool",
        "pools = [pool]; thread = pool._threads[0]._thread; pool.get().post(pools.clear); del pool; thread.join(30)",
    ],
    ids=["idle", "suspended coroutine", "collected", "collected on a thread of its own"],
)
def test_a_forgotten_pool_does_not_keep_the_interpreter_from_ending(work: str) -> None:
    ended = run_program(
        "import asyncio, atoll\n"
        f"pool = atoll.IoContextPool(3, 'forgotten')\npool.run()\n{work}\nprint('end', flush=True)"
    )
    assert (ended.returncode, ended.stdout) == (0, "end\n"), ended.stderr
    assert ended.stderr.count("ResourceWarning: the pool 'forgotten' of 3 loops was never stopped") == 1, ended.stderr
    assert "the thread of loop" not in ended.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_a_forked_child_the_parents_pool_refuses_work_and_its_end_does_nothing() -> None:
    ended = run_program(
        """
import atoll, os, sys
with atoll.IoContextPool(2, "parents") as pool:
    if (child := os.fork()) == 0:
        try:
            pool.get().post(print, "never")
        except atoll.errors.ForkedError:
            pool.stop()
            sys.exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "7\n", "")
