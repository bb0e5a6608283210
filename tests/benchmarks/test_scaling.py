"""What the benchmark of two loops against one says where there is a GIL, and what it measures where there is none."""

import sys

import pytest
from benchmarks.progress import Progress
from benchmarks.scaling import KINDS, ScalingBenchmark

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.mark.skipif(not GIL, reason="there is no GIL")
def test_with_a_gil_the_row_is_left_out_and_no_threshold_asks_for_it() -> None:
    benchmark = ScalingBenchmark(quick=True)
    result = benchmark.run(Progress(benchmark.expected_seconds))
    assert not result.applies
    assert (result.figures, result.tables) == ({}, [])
    (note,) = result.notes
    assert "needs a free-threaded Python" in note


@pytest.mark.skipif(GIL, reason="needs a free-threaded build")
def test_without_a_gil_every_kind_of_handler_is_measured_on_one_loop_and_on_two() -> None:
    benchmark = ScalingBenchmark(quick=True)
    benchmark._rounds, benchmark._seconds = 1, 0.02
    result = benchmark.run(Progress(benchmark.expected_seconds))
    assert result.applies
    for kind in KINDS:
        assert result.figures[f"scaling.{kind}.one.handlers_per_second"].median > 0
        assert result.figures[f"scaling.{kind}.two.over.one"].median > 0
