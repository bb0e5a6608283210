"""The benchmark `overhead`: what it makes of the figures of its parts, and that each part has them."""

import time

import pytest
from benchmarks import overhead_tables, thresholds
from benchmarks.overhead import PARTS, Length, OverheadBenchmark, Part
from benchmarks.overhead_tables import Series
from benchmarks.overheads import peers
from benchmarks.overheads.pumped import BATCH, PumpedLoop, nothing
from benchmarks.progress import Progress
from benchmarks.report import render
from benchmarks.result import Result
from benchmarks.summary import Figure

pytestmark = pytest.mark.once

# The second round was disturbed: the clock went on while the loop did not run.
OBSERVED: Series = {
    "watched.cpu": [125.0, 150.0, 175.0],
    "watched.wall": [110.0, 900.0, 110.0],
    "unwatched.cpu": [100.0, 100.0, 100.0],
    "unwatched.wall": [100.0, 100.0, 100.0],
    "stalls": [0, 0, 0],
}
ON_BOTH: Series = {"atoll_uvloop": [1.0, 2.0], "atoll_asyncio": [3.0, 4.0], "uvloop": [2.0, 4.0], "asyncio": [6.0, 8.0]}


def test_observers_are_judged_by_cpu_time_and_wall_time_is_shown_beside_it() -> None:
    result = Result()
    overhead_tables.observers(OBSERVED, result)
    assert result.figures["overhead.observers.ratio"] == Figure(1.5, 1.375, 1.625)
    assert result.figures["overhead.observers.wall.ratio"].median == 1.1
    assert result.figures["overhead.observers.watched.cpu_ns"].median == 150.0
    assert not result.notes


def test_stalls_of_the_watched_loop_are_noted_since_its_handlers_do_nothing() -> None:
    result = Result()
    overhead_tables.observers(OBSERVED | {"stalls": [0, 2, 1]}, result)
    [note] = result.notes
    assert note.startswith("stalls that the monitor saw: 3; ")


def test_injected_delays_are_compared_with_a_loop_that_never_had_any() -> None:
    result = Result()
    overhead_tables.injection(
        {"never": [100.0, 200.0], "for_nobody": [120.0, 220.0], "switched_off": [100.0, 200.0]}, result
    )
    assert result.figures["overhead.chaos.for_nobody.more_ns"] == Figure(20.0, 20.0, 20.0)
    assert result.figures["overhead.chaos.switched_off.ratio"] == Figure(1.0, 1.0, 1.0)
    assert "overhead.chaos.never.ratio" not in result.figures
    [table] = result.tables
    assert [row[2] for row in table.rows] == ["-", "+20.0 (+20.0 to +20.0)", "+0.0 (+0.0 to +0.0)"]


def test_targets_are_compared_with_each_peer_but_not_with_themselves() -> None:
    result = Result()
    overhead_tables.round_trips(ON_BOTH, result)
    assert result.figures["overhead.round_trip.atoll_uvloop.p50_us.over.uvloop"] == Figure(0.5, 0.5, 0.5)
    assert result.figures["overhead.round_trip.atoll_asyncio.p50_us.over.asyncio"] == Figure(0.5, 0.5, 0.5)
    assert "overhead.round_trip.uvloop.p50_us.over.uvloop" not in result.figures


def test_a_missing_peer_costs_its_rows_and_nothing_else() -> None:
    result = Result()
    overhead_tables.delayed({name: ON_BOTH[name] for name in ("asyncio", "atoll_asyncio")}, result)
    [table] = result.tables
    assert [row[0] for row in table.rows] == ["atoll on asyncio's loop", "asyncio"]
    assert table.rows[0][2] == "-"
    assert "overhead.delayed.atoll_asyncio.ns.over.asyncio" in result.figures


def test_what_takes_turns_goes_first_in_some_round() -> None:
    assert [peers.in_turn(["a", "b", "c"], number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_a_pumped_loop_runs_all_that_it_posted_and_can_be_measured_again() -> None:
    loop = PumpedLoop("pumped")
    before = time.perf_counter()
    costs = [loop.cost(0.001), loop.cost(0.0)]
    spent = time.perf_counter() - before
    total = next(it.total for it in loop.io_context.stats().handlers if it.name == nothing.__qualname__)
    loop.close()
    assert total >= 2 * BATCH
    assert total % BATCH == 0
    assert all(0 < cost.wall * BATCH * 1e-9 <= spent and cost.cpu > 0 for cost in costs)


def test_a_part_that_can_not_be_measured_costs_its_tables_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part("what is not there", Length(1, 0.0, 0.0), Length(1, 0.0, 0.0), overhead_tables.observers)
    monkeypatch.setattr("benchmarks.overhead.PARTS", {"no_such_part": part})
    result = OverheadBenchmark(quick=True).run(Progress(1.0))
    assert not result.tables
    [note] = result.notes
    assert note.startswith("left out the overhead of what is not there: ")
    assert "no_such_part" in note


def test_a_run_has_a_table_per_part_and_each_figure_that_a_threshold_names(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uvloop")
    short = {name: part._replace(quick=Length(2, 0.01, 1.0)) for name, part in PARTS.items()}
    monkeypatch.setattr("benchmarks.overhead.PARTS", short)
    result = OverheadBenchmark(quick=True).run(Progress(14.0))
    assert [note for note in result.notes if "left out" in note] == []
    assert len(result.tables) == len(PARTS)
    assert all(render(table) for table in result.tables)
    judged = [verdict.threshold.figure for verdict in thresholds.committed().judge(["overhead"], result.figures)]
    assert judged
    assert [figure for figure in judged if figure not in result.figures] == []


def test_a_run_takes_about_as_long_as_it_says_and_a_quick_one_much_less() -> None:
    assert OverheadBenchmark(quick=False).expected_seconds < 40
    assert OverheadBenchmark(quick=True).expected_seconds < 12
