"""What the page on pools and periodic work shows is what happens."""

from __future__ import annotations

import asyncio
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import atoll
from atoll.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "pools-and-periodic-work.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def block_with(text: str) -> str:
    (found,) = (block for block in blocks("python") if text in block)
    return found


def schedules() -> Iterator[tuple[dict[str, str], list[float]]]:
    """The rows of the table, as options and times."""
    row = r"^\| `(fixed_\w+)`[^|]*\| (.*?) \|[^|]*\| ([\d., ]+) \|$"
    for schedule, catch_up, times in re.findall(row, PAGE, re.MULTILINE):
        options = {"schedule": schedule}
        if "`" in catch_up:
            options["catch_up"] = catch_up.split("`")[1]
        yield options, [float(time) for time in times.split(",")]


def test_the_first_example_prints_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    exec(block_with("class Connection"), {"__name__": "example"})  # noqa: S102 - our own page
    assert [capsys.readouterr().out] == blocks("text")


def test_the_test_with_a_clock_passes() -> None:
    namespace: dict[str, Any] = {"atoll": atoll}
    exec(block_with("ManualClock"), namespace)  # noqa: S102 - our own page
    namespace["runner"].cancel()
    namespace["io_context"].close()


def test_the_key_that_is_the_same_in_every_process_is_one() -> None:
    with atoll.IoContextPool(4, "connections") as pool:
        found = eval(block_with("crc32"), {"pool": pool, "zlib": zlib})  # noqa: S307 - our own page
        assert found is pool.all()[zlib.crc32(b"node 7") % 4]


def test_a_runner_that_nobody_holds_runs_nothing() -> None:
    clock = ManualClock()
    io_context = atoll.IoContext("test", clock=clock)
    reports: list[str] = []
    names = {"atoll": atoll, "io_context": io_context, "report": lambda: reports.append("report")}
    exec(block_with("report"), names)  # noqa: S102 - our own page
    clock.advance(10.0)
    assert not reports
    io_context.close()


def test_the_table_has_all_schedules() -> None:
    assert [options for options, _ in schedules()] == [
        {"schedule": "fixed_delay"},
        {"schedule": "fixed_rate", "catch_up": "skip"},
        {"schedule": "fixed_rate", "catch_up": "burst"},
    ]


@pytest.mark.parametrize(("options", "shown"), list(schedules()))
def test_runs_are_due_when_the_table_says(options: dict[str, Any], shown: list[float]) -> None:
    clock = ManualClock()
    io_context = atoll.IoContext("test", clock=clock)
    runner = atoll.PeriodicalRunner.create(io_context)
    times: list[float] = []

    async def slow_at_first() -> None:
        times.append(io_context.now())
        if len(times) == 1:
            await asyncio.sleep(3.5)

    runner.run_fn_periodically(slow_at_first, 1.0, first=1.0, **options)
    clock.advance(20.0)
    assert times[: len(shown)] == shown
    runner.cancel()
    io_context.close()
