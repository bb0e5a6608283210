"""The committed thresholds and how a run is held against them."""

import pytest
from benchmarks.summary import Figure
from benchmarks.thresholds import Threshold, Thresholds, Verdict, committed

FAST = Threshold(says="speed", figure="echo.8x16.atoll.speed", at_least=20)
CHEAP = Threshold(says="cost", figure="post.recording.ns", at_most=30)


def figure(median: float) -> Figure:
    return Figure(median=median, low=0.0, high=1e9)


def test_a_limit_includes_its_own_value() -> None:
    assert FAST.meets(20)
    assert not FAST.meets(19.999)
    assert CHEAP.meets(30)
    assert not CHEAP.meets(30.001)


@pytest.mark.parametrize("limits", [{}, {"at_least": 1.0, "at_most": 2.0}])
def test_a_threshold_has_one_limit(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="needs one of at_least and at_most"):
        Threshold(says="nonsense", figure="echo.x", **limits)


def test_the_median_is_compared_not_the_best_round() -> None:
    thresholds = Thresholds((3, 12), (FAST,))
    [missed] = thresholds.judge(["echo"], {FAST.figure: figure(19.0)})
    [met] = thresholds.judge(["echo"], {FAST.figure: figure(21.0)})
    assert (missed.passed, met.passed) == (False, True)


def test_only_the_benchmarks_that_ran_are_judged() -> None:
    assert [verdict.threshold for verdict in Thresholds((3, 12), (FAST, CHEAP)).judge(["post"], {})] == [CHEAP]


def test_a_figure_that_could_not_be_measured_is_a_miss() -> None:
    verdict = Verdict(FAST, None)
    assert not verdict.passed
    assert str(verdict) == "MISS  speed: not measured (at least 20)"


def test_a_verdict_says_what_was_measured_and_the_limit() -> None:
    assert str(Verdict(CHEAP, 12.345)) == "pass  cost: 12.35 (at most 30)"


def test_the_thresholds_hold_from_their_python_on() -> None:
    thresholds = Thresholds.read('{"minimum_python": "3.12", "thresholds": []}')
    assert not thresholds.apply_to((3, 11))
    assert thresholds.apply_to((3, 12))
    assert thresholds.apply_to((3, 14))


def test_the_committed_file_names_each_figure_of_the_goals_once() -> None:
    figures = [threshold.figure for threshold in committed().thresholds]
    assert len(figures) == len(set(figures)) == 37
    loops = {"post", "neighbour", "scaling", "overhead"}
    calls = {"echo", "streaming", "payload", "idle", "broadcast", "overload"}
    control = {"nodes", "kv", "watchers", "restart", "failover"}
    assert {name.partition(".")[0] for name in figures} == loops | calls | control
