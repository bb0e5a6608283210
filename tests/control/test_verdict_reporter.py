"""VerdictReporter: findings are handed over until they have been taken. Time is set, never waited for."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from atoll import IoContext
from atoll.testing import ManualClock
from atoll_control.server.verdict_reporter import MAX_AT_ONCE, Finding, VerdictReporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


class Recorder:
    """Takes findings, on a loop whose time the test moves."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.loop = IoContext("recorder", clock=self.clock)
        self.taken: list[tuple[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.fails: Callable[[Finding], bool] = lambda _: False
        self.takes = 0.0
        self.reporter = VerdictReporter(self.record)

    async def record(self, finding: Finding) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.takes)
            if self.fails(finding):
                raise RuntimeError("not now")
            self.taken.append((finding.node_id, finding.phase))
        finally:
            self.at_once -= 1

    def report(self, node_id: str, phase: str = "dead") -> None:
        self.loop.post(self.reporter.report, Finding(node_id, 1, phase, "because"))

    def settle(self) -> None:
        self.clock.settle()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    stopping: Any = recorder.loop.submit(recorder.reporter.stop)
    recorder.settle()
    stopping.result()
    recorder.loop.close()


def test_findings_are_handed_over_in_the_order_in_which_they_came(recorder: Recorder) -> None:
    for node_id in "abc":
        recorder.report(node_id)
    recorder.settle()
    assert recorder.taken == [("a", "dead"), ("b", "dead"), ("c", "dead")]
    assert recorder.reporter.unrecorded == 0


def test_a_finding_that_was_not_taken_is_handed_over_again_ever_more_seldom(recorder: Recorder) -> None:
    times: list[float] = []

    def fails(_: Finding) -> bool:
        times.append(recorder.clock.now())
        return recorder.clock.now() < 20.0

    recorder.fails = fails
    recorder.report("a")
    recorder.clock.advance(40.0)
    assert recorder.taken == [("a", "dead")]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[:7] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0])
    assert max(gaps) == pytest.approx(5.0)


def test_a_later_finding_takes_the_place_of_one_that_waits(recorder: Recorder) -> None:
    recorder.fails = lambda finding: finding.phase == "suspect"
    recorder.report("a", "suspect")
    recorder.settle()
    recorder.report("a", "alive")
    recorder.report("a", "dead")
    recorder.clock.advance(1.0)
    assert recorder.taken == [("a", "dead")]


def test_findings_of_one_node_are_never_handed_over_at_the_same_time(recorder: Recorder) -> None:
    recorder.takes = 1.0
    recorder.report("a", "suspect")
    recorder.settle()
    recorder.report("a", "dead")
    recorder.clock.advance(5.0)
    assert recorder.most_at_once == 1
    assert recorder.taken == [("a", "suspect"), ("a", "dead")]


def test_only_so_many_are_handed_over_at_once_and_none_is_forgotten(recorder: Recorder) -> None:
    recorder.takes = 1.0
    for number in range(300):
        recorder.report(f"n{number}")
    recorder.settle()
    assert recorder.reporter.unrecorded == 300
    recorder.clock.advance(10.0)
    assert recorder.most_at_once == MAX_AT_ONCE
    assert len(recorder.taken) == len(set(recorder.taken)) == 300
    assert recorder.reporter.unrecorded == 0
