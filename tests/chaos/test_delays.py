"""Which rule is a handler's, and the delays that it gives: from the seed and the names alone."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("hypothesis", reason="has no wheel for this Python")

from hypothesis import given
from hypothesis import strategies as st

from atoll.chaos import DelayInjector, DelayRule

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

MICROSECOND = 1e-6


def parse(text: str, seed: int = 1) -> DelayInjector:
    return DelayInjector.parse(text, seed=seed)


def within(injector: DelayInjector, handler: str, minimum: int, maximum: int) -> bool:
    """Whether a thousand delays of `handler` are from `minimum` to `maximum` microseconds."""
    delays = injector.preview("loop", handler, 1_000)
    return len(delays) == 1_000 and all(minimum <= round(each / MICROSECOND) <= maximum for each in delays)


# ------------------------------------------------------------------------------------------------- Ray's AsioChaosTest


def test_rays_basic_each_method_is_delayed_within_its_own_range() -> None:
    injector = parse("method1=10:100,method2=20:30")
    assert within(injector, "method1", 10, 100)
    assert within(injector, "method2", 20, 30)
    assert injector.preview("loop", "others") == []


def test_rays_with_global_others_are_delayed_within_the_range_of_the_star() -> None:
    injector = parse("method1=10:10,method2=20:30,*=100:200")
    assert within(injector, "method1", 10, 10)
    assert within(injector, "method2", 20, 30)
    assert within(injector, "others", 100, 200)


# ---------------------------------------------------------------------------------------------------------- precedence


@pytest.mark.parametrize(
    ("handler", "rule"),
    [
        ("NodeService.Heartbeat", "NodeService.Heartbeat"),
        ("/atoll.v1.NodeService/Heartbeat", "NodeService.Heartbeat"),
        ("OtherService.Heartbeat", "Heartbeat"),
        ("/atoll.v1.OtherService/Heartbeat", "Heartbeat"),
        ("Heartbeat", "Heartbeat"),
        ("Cluster.join.<locals>.Heartbeat", "Heartbeat"),
        ("heartbeat", "*"),
        ("Heartbeats", "*"),
        ("Heartbeat.NodeService", "*"),
        ("(other)", "*"),
        ("", "*"),
    ],
)
def test_the_full_name_beats_the_last_part_beats_the_star(handler: str, rule: str) -> None:
    for order in ("*=1:1,Heartbeat=2:2,NodeService.Heartbeat=3:3", "NodeService.Heartbeat=3:3,Heartbeat=2:2,*=1:1"):
        found = parse(order).rule_for(handler)
        assert found is not None
        assert found.pattern == rule


def test_a_rule_may_name_a_call_by_its_path() -> None:
    injector = parse("/atoll.v1.NodeService/Heartbeat=1:1")
    assert injector.rule_for("NodeService.Heartbeat") == DelayRule("/atoll.v1.NodeService/Heartbeat", 1e-6, 1e-6)
    assert injector.rule_for("OtherService.Heartbeat") is None


def test_a_handler_without_a_rule_is_not_delayed() -> None:
    injector = parse("a=1:2")
    assert injector.rule_for("b") is None
    assert injector.preview("loop", "b") == []


# -------------------------------------------------------------------------------------------------------------- draws


@given(st.integers(0, 2**64 - 1), st.text(), st.text())
def test_the_delays_of_a_handler_are_a_function_of_seed_loop_and_handler(seed: int, loop: str, handler: str) -> None:
    injector = parse("*=0:1000000", seed)
    delays = injector.preview(loop, handler, 20)
    assert delays == injector.preview(loop, handler, 30)[:20]
    assert delays == parse("*=0:1000000,unrelated.rule=1:2", seed).preview(loop, handler, 20)
    assert delays != injector.preview(loop + "'", handler, 20)
    assert delays != injector.preview(loop, handler + "'", 20)
    assert delays != parse("*=0:1000000", seed ^ 1).preview(loop, handler, 20)


def test_both_bounds_are_drawn() -> None:
    assert set(parse("*=5:8").preview("loop", "handler", 200)) == {5e-6, 6e-6, 7e-6, 8e-6}


@given(st.integers(0, 2**64 - 1), st.integers(0, 10_000), st.integers(0, 10_000))
def test_no_delay_is_outside_of_its_bounds(seed: int, minimum: int, span: int) -> None:
    injector = parse(f"*={minimum}:{minimum + span}", seed)
    assert all(minimum <= round(each / MICROSECOND) <= minimum + span for each in injector.preview("l", "h", 100))


def test_delays_are_spread_evenly_and_do_not_follow_each_other() -> None:
    delays = parse("*=0:1000000").preview("loop", "handler", 10_000)
    # Six standard deviations of the mean, and of a share, of ten thousand.
    assert abs(statistics.fmean(delays) - 0.5) < 0.018
    for tenth in range(10):
        share = sum(tenth / 10 <= each < (tenth + 1) / 10 for each in delays) / len(delays)
        assert abs(share - 0.1) < 0.018
    assert abs(statistics.correlation(delays[:-1], delays[1:])) < 0.06


def test_neighbouring_seeds_have_unrelated_delays() -> None:
    first, second = (parse("*=0:1000000", seed).preview("loop", "handler", 10_000) for seed in (1, 2))
    assert abs(statistics.correlation(first, second)) < 0.06


def test_the_delays_of_a_seed_are_those_of_every_other_release() -> None:
    delays = parse("*=0:1000000", 42).preview("nodes", "NodeService.Heartbeat", 4)
    assert delays == [0.880235, 0.100451, 0.857175, 0.203037]


PROGRAM = """
import random
from atoll.chaos import DelayInjector
random.seed()
injector = DelayInjector.parse("Heartbeat=1000:2000,*=0:100", seed=99)
for handler in {"NodeService.Heartbeat", "Pull", "Push"}:
    injector.preview("nodes", handler, random.randrange(100))
for handler in "NodeService.Heartbeat", "Pull", "Push":
    print(injector.preview("nodes", handler, 50))
"""


def test_every_process_draws_the_same_whatever_its_hash_seed_is(
    elsewhere: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    printed = {elsewhere(PROGRAM, PYTHONHASHSEED=seed).stdout for seed in ("0", "1", "random")}
    assert len(printed) == 1
    assert len(printed.pop().splitlines()) == 3
