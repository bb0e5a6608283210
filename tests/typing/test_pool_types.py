"""What type checkers make of pools and periodic functions."""

from __future__ import annotations

import asyncio
from typing import assert_type

import pytest

import atoll


def function() -> int:
    return 1


def needs_an_argument(number: int) -> None:
    raise AssertionError(number)


async def coroutine_function() -> None:
    await asyncio.sleep(0)


def test_what_users_write_has_the_types_that_they_expect() -> None:
    with atoll.IoContextPool(2, "workers", max_queued=10) as pool:
        assert_type(pool, atoll.IoContextPool)
        assert_type(pool.get(), atoll.IoContext)
        assert_type(pool.get(("tenant", 5)), atoll.IoContext)
        assert_type(pool.all(), tuple[atoll.IoContext, ...])
        runner = atoll.PeriodicalRunner.create(pool.get())
        assert_type(runner, atoll.PeriodicalRunner)
        assert_type(runner.run_fn_periodically(function, 1), atoll.PeriodicalHandle)
        handle = runner.run_fn_periodically(coroutine_function, 1.0, "name", schedule="fixed_rate", catch_up="burst")
        assert_type(handle.cancel(), bool)
        assert_type(handle.statistics(), atoll.PeriodicalStats)
        assert_type(handle.statistics().last_run, float | None)
        assert_type(runner.handles, frozenset[atoll.PeriodicalHandle])
        runner.cancel()


def test_what_can_not_work_is_an_error_before_it_runs() -> None:
    with atoll.IoContextPool(2, "workers") as pool:
        with pytest.raises(TypeError):
            pool.get([1])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
        runner = atoll.PeriodicalRunner.create(pool.get())
        with pytest.raises(ValueError, match="schedule"):
            runner.run_fn_periodically(function, 1.0, schedule="hourly")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError):
        atoll.PeriodicalRunner.create(pool)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_function_that_needs_arguments_is_an_error_for_type_checkers_and_for_the_hook() -> None:
    raised: list[BaseException] = []
    io_context = atoll.IoContext("test", exception_hook=lambda _loop, _name, exception: raised.append(exception))
    runner = atoll.PeriodicalRunner.create(io_context)
    handle = runner.run_fn_periodically(needs_an_argument, 3_600.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    io_context.poll()
    assert [type(exception) for exception in raised] == [TypeError]
    assert handle.statistics().errors == 1
    io_context.close()
