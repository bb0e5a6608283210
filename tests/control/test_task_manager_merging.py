"""Merging of task events: neither order nor repetition matters."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.control.task_events import Tasks, event

from atoll_control.api.v1 import task_pb2

# Few values, so that times and facts collide.
TEXTS = st.sampled_from(["", "a", "b", "é"])
STATES = st.sampled_from(["", "PENDING", "SCHEDULED", "RUNNING", "FINISHED", "FAILED"])
SECONDS = st.integers(-3, 3)


@st.composite
def task_events(draw: st.DrawFn) -> Any:
    facts = ("name", "kind", "node_id", "worker_id", "parent_task_id", "error_type", "error_message")
    made = event("t", draw(STATES))
    for fact in facts:
        setattr(made, fact, draw(TEXTS))
    made.labels.update(draw(st.dictionaries(st.sampled_from("xy"), TEXTS, max_size=2)))
    made.resources.update(draw(st.dictionaries(st.sampled_from("xy"), st.sampled_from([-0.0, 0.0, 1.5]), max_size=2)))
    if made.state or draw(st.booleans()):
        # Also before 1970.
        made.time.seconds = draw(SECONDS)
        made.time.nanos = draw(st.sampled_from([0, 1]))
    return made


def merged(events: list[Any], ended: int | None = None) -> Any:
    """The attempt that comes of the events, when its job ends before the event with this number."""
    tasks = Tasks()
    for number, one in enumerate(events):
        if number == ended:
            tasks.call("EndJob", job_id="job")
        tasks.add(one)
    (attempt,) = tasks.call("GetTask", task_id="t").attempts
    return attempt


@given(st.data())
def test_any_order_and_repetition_of_the_events_of_an_attempt_gives_the_same_attempt(data: st.DataObject) -> None:
    events = data.draw(st.lists(task_events(), min_size=1, max_size=6))
    repeated = data.draw(st.lists(st.sampled_from(events), max_size=4))
    permuted = data.draw(st.permutations([*events, *repeated]))
    assert merged(permuted) == merged(events)


@given(st.data())
def test_it_does_not_matter_when_between_events_a_job_ends(data: st.DataObject) -> None:
    events = data.draw(st.lists(task_events(), min_size=2, max_size=5))
    first, second = (data.draw(st.integers(0, len(events) - 1)) for _ in range(2))
    permuted = data.draw(st.permutations(events))
    assert merged(events, first) == merged(permuted, second)


@given(st.lists(task_events(), min_size=1, max_size=6))
def test_what_an_attempt_takes_of_the_bound_is_what_a_new_one_with_the_same_facts_takes(events: list[Any]) -> None:
    tasks, again = Tasks(), Tasks()
    tasks.add(*events)
    (shown,) = tasks.call("GetTask", task_id="t").attempts
    same = task_pb2.TaskEvent(job_id="job", task_id="t", labels=shown.labels, resources=shown.resources)
    for fact in ("name", "kind", "node_id", "worker_id", "parent_task_id", "error_type", "error_message"):
        setattr(same, fact, getattr(shown, fact))
    again.add(same)
    assert tasks.manager._table.bytes == again.manager._table.bytes
