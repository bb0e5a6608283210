"""TaskManager within its bounds: what goes first, and that it is counted where people see it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.control.task_events import Tasks, event, where

from atoll_control.server.task_table import MAX_COUNT, TaskSettings

MEBIBYTE = 1 << 20


def test_of_finished_attempts_the_one_that_ended_first_goes_first() -> None:
    tasks = Tasks(max_attempts=3)
    tasks.add(event("a", "RUNNING", 1), event("b", "FINISHED", 2), event("a", "FINISHED", 3), event("c", "FINISHED", 4))
    assert tasks.add(event("d", "FINISHED", 5)).evicted == 1
    assert tasks.names() == ["d", "c", "a"]


def test_finished_attempts_go_before_those_that_have_not_ended_and_failures_last() -> None:
    tasks = Tasks(max_attempts=4, reserved_share=0)
    tasks.add(event("failed", "FAILED", 1), event("runs", "RUNNING", 1), event("done", "FINISHED", 1))
    tasks.add(*(event(f"{number}", "FAILED", 2) for number in range(2)))
    assert tasks.names() == ["1", "0", "runs", "failed"]
    tasks.add(event("2", "FAILED", 2))
    assert tasks.names() == ["2", "1", "0", "failed"]
    tasks.add(event("3", "FAILED", 2))
    assert tasks.names() == ["3", "2", "1", "0"]


def test_of_attempts_that_have_not_ended_the_oldest_goes_first() -> None:
    tasks = Tasks(max_attempts=2)
    tasks.add(event("a", "PENDING", 1), event("b", "RUNNING", 1), event("a", "RUNNING", 2), event("c", "PENDING", 1))
    assert tasks.names() == ["c", "b"]


def test_a_table_full_of_failures_still_shows_what_runs_now() -> None:
    tasks = Tasks(max_attempts=20, reserved_share=0.1)
    tasks.add(*(event(f"failed{number}", "FAILED", 1) for number in range(20)))
    tasks.add(*(event(f"runs{number}", "RUNNING", 1) for number in range(5)))
    tasks.add(*(event(f"done{number}", "FINISHED", 1) for number in range(5)))
    shown = tasks.names()
    assert shown[:4] == ["done4", "done3", "runs4", "runs3"]
    assert shown[-1] == "failed4"
    assert len(shown) == 20


def test_a_job_gives_way_within_its_own_bound_and_leaves_others_alone() -> None:
    tasks = Tasks(max_attempts=10, max_attempts_per_job=3)
    tasks.add(event("other", "FINISHED", 1, job="other"))
    answered = tasks.add(*(event(str(number), "FINISHED", 2) for number in range(5)))
    assert answered.evicted == 2
    assert tasks.names() == ["4", "3", "2", "other"]
    assert [(job.job_id, job.attempts, job.dropped_here) for job in tasks.call("ListJobs").jobs] == [
        *(("job", 3, 2), ("other", 1, 0))
    ]


def test_what_is_dropped_is_counted_at_its_job_and_shown_in_every_answer() -> None:
    tasks = Tasks(max_attempts=2)
    tasks.add(event("1", "FINISHED", 1, job="a"), event("2", "FINISHED", 1, job="a"), dropped={"a": 5, "c": 7})
    tasks.add(event("3", "FINISHED", 1, job="b"))
    counts = {job.job_id: (job.dropped_here, job.dropped_by_senders) for job in tasks.call("ListJobs").jobs}
    assert counts == {"a": (1, 5), "b": (0, 0), "c": (0, 7)}
    assert tasks.call("ListTasks").dropped == tasks.call("SummarizeTasks").dropped == 13
    of_a = tasks.call("ListTasks", filters=[where("job_id", "a")])
    assert of_a.dropped == tasks.call("SummarizeTasks", job_id="a").dropped == 6
    assert tasks.call("ListTasks", filters=[where("job_id", "unknown")]).dropped == 0


def test_what_senders_dropped_may_be_any_number_and_the_counters_stop_at_their_end() -> None:
    tasks = Tasks(max_jobs=1)
    for job in ("a", "a", "b", "c"):
        tasks.add(dropped={job: MAX_COUNT})
    assert tasks.job("c").dropped_by_senders == tasks.call("ListTasks").dropped == MAX_COUNT
    assert tasks.call("ListJobs").forgotten_dropped_by_senders == MAX_COUNT


def test_large_attempts_give_way_by_their_bytes() -> None:
    tasks = Tasks(max_bytes=MEBIBYTE)
    labels = {str(number): "x" * 1024 for number in range(32)}
    evicted = sum(tasks.add(event(str(number), "FINISHED", 1, labels=labels)).evicted for number in range(100))
    kept = len(tasks.names())
    assert 20 <= kept <= 32
    assert evicted == tasks.job().dropped_here == 100 - kept
    assert tasks.manager._table.bytes <= MEBIBYTE


def test_facts_that_come_later_count_as_well() -> None:
    tasks = Tasks(max_bytes=MEBIBYTE)
    tasks.add(*(event(str(number), "FINISHED", 1) for number in range(100)))
    for number in range(100):
        tasks.add(event(str(number), error_message="x" * 4096, labels={str(label): "x" * 1024 for label in range(32)}))
    assert tasks.manager._table.bytes <= MEBIBYTE
    assert tasks.job().dropped_here >= 60


def test_the_largest_attempt_that_there_can_be_is_kept_in_the_smallest_table() -> None:
    tasks = Tasks(max_bytes=MEBIBYTE)
    widest = "x" * 1020 + "\U0001f3dd"
    labels = {"\U0001f3dd" + "k" * 120 + str(number): widest for number in range(32)}
    resources = {"\U0001f3dd" + "r" * 120 + str(number): 1.5 for number in range(32)}
    tasks.add(event("t", "FAILED", 1, error_message="x" * 4092 + "\U0001f3dd", labels=labels, resources=resources))
    assert tasks.names() == ["t"]


def test_the_job_that_ended_first_is_forgotten_first_and_leaves_its_counters_in_the_total() -> None:
    tasks = Tasks(max_jobs=3)
    for job in ("a", "b", "c"):
        tasks.add(event(f"of {job}", "FINISHED", 1, job=job), dropped={job: 10})
    tasks.call("EndJob", job_id="c")
    tasks.call("EndJob", job_id="b")
    answered = tasks.add(event("of d", "FINISHED", 1, job="d"))
    assert answered.evicted == 1
    listed = tasks.call("ListJobs")
    assert [job.job_id for job in listed.jobs] == ["a", "b", "d"]
    assert (listed.forgotten_jobs, listed.forgotten_dropped_here, listed.forgotten_dropped_by_senders) == (1, 1, 10)
    assert tasks.call("ListTasks").dropped == 31
    assert tasks.names() == ["of d", "of b", "of a"]
    assert tasks.refused("GetTask", task_id="of c")[0] == "NOT_FOUND"


def test_of_jobs_that_have_not_ended_the_one_that_was_silent_for_longest_is_forgotten() -> None:
    tasks = Tasks(max_jobs=2)
    tasks.add(event("1", "RUNNING", 1, job="a"), event("2", "RUNNING", 1, job="b"), event("3", "RUNNING", 1, job="a"))
    tasks.add(dropped={"c": 1})
    assert [job.job_id for job in tasks.call("ListJobs").jobs] == ["a", "c"]


def test_a_job_without_attempts_keeps_its_counter() -> None:
    tasks = Tasks(max_attempts=1)
    tasks.add(event("1", "FINISHED", 1, job="a"), event("2", "FINISHED", 1, job="b"))
    assert (tasks.job("a").attempts, tasks.job("a").dropped_here) == (0, 1)


def test_an_attempt_whose_job_is_ending_may_go_in_the_meantime() -> None:
    tasks = Tasks(max_attempts=2)
    tasks.add(event("1", "RUNNING", 1), event("2", "RUNNING", 1))
    # As between the parts in which a large job ends.
    tasks.manager._table.end_job("job", 0)
    tasks.add(event("1", "RUNNING", 2), event("3", "RUNNING", 1, job="other"))
    tasks.add(event("4", "RUNNING", 1, job="other"))
    assert tasks.call("EndJob", job_id="job").failed == 0
    assert tasks.manager._table.bytes > 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from("12345678"),
            st.integers(0, 1),
            st.sampled_from(["", "RUNNING", "FINISHED", "FAILED", "end job"]),
        ),
        max_size=60,
    )
)
def test_indexes_counters_and_bounds_agree_whatever_comes(steps: list[tuple[str, str, int, str]]) -> None:
    tasks = Tasks(max_attempts=6, max_attempts_per_job=4, max_jobs=2)
    table = tasks.manager._table
    new = 0
    for number, (job, task, attempt, what) in enumerate(steps):
        if what == "end job":
            tasks.call("EndJob", job_id=job)
            continue
        known = {(shown.job_id, shown.task_id, shown.attempt) for shown in tasks.attempts()}
        new += (job, task, attempt) not in known
        tasks.add(event(task, what, number, job=job, attempt=attempt))
        shown = tasks.attempts()
        by_job = [attempt for name in "abc" for attempt in tasks.attempts(where("job_id", name))]
        by_task = [attempt for name in "12345678" for attempt in tasks.attempts(where("task_id", name))]
        assert ids(shown) == ids(by_job) == ids(by_task)
        jobs = tasks.call("ListJobs")
        assert len(jobs.jobs) <= 2
        assert all(job.attempts <= 4 for job in jobs.jobs)
        assert len(shown) == len(table) == sum(job.attempts for job in jobs.jobs) <= 6
        dropped = sum(job.dropped_here for job in jobs.jobs) + jobs.forgotten_dropped_here
        assert dropped == table.dropped == new - len(shown)
        assert table.bytes == sum(kept.size for kept in table.newest_first.before(table.next_number))


def ids(attempts: list[Any]) -> list[tuple[str, str, int]]:
    return sorted((attempt.job_id, attempt.task_id, attempt.attempt) for attempt in attempts)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_attempts": 0}, "max_attempts: must be at least 1, got 0"),
        ({"max_attempts_per_job": -1}, "max_attempts_per_job: must be at least 1, got -1"),
        ({"max_jobs": 0}, "max_jobs: must be at least 1, got 0"),
        ({"max_looked_at": 0}, "max_looked_at: must be at least 1, got 0"),
        ({"max_bytes": 1000}, "max_bytes: must be at least 1,048,576"),
        ({"reserved_share": 0.5}, "reserved_share: must be from 0 to 1/3"),
        ({"reserved_share": float("nan")}, "reserved_share: must be from 0 to 1/3"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_its_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        TaskSettings(**settings)


def test_the_defaults_are_those_that_are_documented() -> None:
    defaults = TaskSettings()
    assert (defaults.max_attempts, defaults.max_attempts_per_job, defaults.max_jobs) == (100_000, 50_000, 10_000)
    assert (defaults.max_bytes, defaults.reserved_share, defaults.max_looked_at) == (256 << 20, 0.1, 20_000)
