"""Medians, ratios and quantiles."""

import statistics

import pytest
from benchmarks.summary import Figure, quantile, ratio, ratios


def test_a_figure_is_the_median_with_the_lowest_and_the_highest() -> None:
    assert Figure.of([3.0, 1.0, 2.0]) == Figure(median=2.0, low=1.0, high=3.0)


def test_a_figure_of_nothing_is_an_error() -> None:
    with pytest.raises(statistics.StatisticsError):
        Figure.of([])
    with pytest.raises(statistics.StatisticsError):
        Figure.of_quartiles([])


def test_a_figure_of_many_rounds_has_the_quartiles_instead() -> None:
    assert Figure.of_quartiles([0.0, 1.0, 2.0, 3.0, 1e9]) == Figure(median=2.0, low=1.0, high=3.0)


def test_the_quartiles_lie_within_the_values() -> None:
    assert Figure.of_quartiles([1.0, 3.0]) == Figure(median=2.0, low=1.5, high=2.5)


def test_ratios_are_taken_within_a_round() -> None:
    # The second round was disturbed as a whole: both sides took ten times as long, their ratio is the same.
    assert ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == Figure(median=2.0, low=2.0, high=2.0)


def test_the_ratios_of_the_rounds_can_be_had_one_by_one() -> None:
    assert ratios([2.0, 30.0], [1.0, 10.0]) == [2.0, 3.0]


def test_a_ratio_needs_the_same_rounds_on_both_sides() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)])
def test_a_quantile_is_the_nearest_rank(q: float, expected: int) -> None:
    assert quantile(range(1, 101), q) == expected


def test_any_quantile_of_one_value_is_that_value() -> None:
    assert quantile([7.0], 0.99) == 7.0
