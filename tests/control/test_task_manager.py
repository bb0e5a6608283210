"""TaskManager: what it shows of events, jobs and their ends, and what it refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.control.malformed import malformed
from tests.control.task_events import Tasks, event, time, where

from atoll_control.api.v1 import task_pb2
from atoll_control.server.pages import MAX_PAGE_BYTES
from atoll_control.server.task_manager import MAX_ATTEMPTS_SHOWN, MAX_SUMMARIES, TaskManager
from atoll_control.testing import answer, refusal

METHODS = ["AddTaskEvents", "ListTasks", "GetTask", "SummarizeTasks", "ListJobs", "EndJob"]


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


def the(tasks: Tasks, task_id: str = "t") -> Any:
    (attempt,) = tasks.call("GetTask", task_id=task_id).attempts
    return attempt


def state(attempt: Any) -> str:
    return task_pb2.TaskState.Name(attempt.state).removeprefix("TASK_STATE_")


# -- events ------------------------------------------------------------------------------------------------------------


def test_an_attempt_shows_what_its_events_said(tasks: Tasks) -> None:
    answered = tasks.add(
        event(
            "t", "PENDING", 1, name="train", kind="normal", parent_task_id="p", labels={"a": "b"}, resources={"CPU": 2}
        ),
        event("t", "SCHEDULED", 2, node_id="n"),
        event("t", "RUNNING", 3.5, worker_id="w"),
        event("t", "FAILED", 4, error_type="OOM", error_message="too much"),
    )
    assert (answered.accepted, answered.evicted) == (4, 0)
    states = [
        task_pb2.StateTime(state=task_pb2.TASK_STATE_PENDING, time=time(1)),
        task_pb2.StateTime(state=task_pb2.TASK_STATE_SCHEDULED, time=time(2)),
        task_pb2.StateTime(state=task_pb2.TASK_STATE_RUNNING, time=time(3.5)),
        task_pb2.StateTime(state=task_pb2.TASK_STATE_FAILED, time=time(4)),
    ]
    assert the(tasks) == task_pb2.TaskAttempt(
        job_id="job",
        task_id="t",
        state=task_pb2.TASK_STATE_FAILED,
        states=states,
        name="train",
        kind="normal",
        node_id="n",
        worker_id="w",
        parent_task_id="p",
        error_type="OOM",
        error_message="too much",
        labels={"a": "b"},
        resources={"CPU": 2.0},
    )


def test_an_event_that_comes_late_does_not_take_an_attempt_back(tasks: Tasks) -> None:
    tasks.add(event("t", "FINISHED", 9))
    tasks.add(event("t", "RUNNING", 5))
    assert state(the(tasks)) == "FINISHED"
    assert [entry.time.seconds for entry in the(tasks).states] == [time(5).seconds, time(9).seconds]


def test_the_furthest_state_counts_where_the_clocks_of_nodes_differ(tasks: Tasks) -> None:
    tasks.add(event("t", "RUNNING", 1), event("t", "PENDING", 2))
    assert state(the(tasks)) == "RUNNING"


@pytest.mark.parametrize(("finished", "failed", "shown"), [(1, 2, "FAILED"), (2, 1, "FINISHED"), (1, 1, "FAILED")])
def test_of_two_ends_the_later_counts(tasks: Tasks, finished: float, failed: float, shown: str) -> None:
    tasks.add(event("t", "FAILED", failed), event("t", "FINISHED", finished))
    assert state(the(tasks)) == shown


def test_facts_without_a_state_fill_in_and_leave_what_a_timed_event_said(tasks: Tasks) -> None:
    tasks.add(event("t", "RUNNING", 1, name="timed"), event("t", name="later", node_id="n"))
    assert (the(tasks).name, the(tasks).node_id, state(the(tasks))) == ("timed", "n", "RUNNING")


def test_an_attempt_with_facts_alone_has_no_state(tasks: Tasks) -> None:
    tasks.add(event("t", name="train"))
    assert (state(the(tasks)), list(the(tasks).states)) == ("UNSPECIFIED", [])


def test_tries_of_one_task_are_attempts_of_their_own_and_the_first_is_shown_first(tasks: Tasks) -> None:
    tasks.add(
        event("t", "RUNNING", 3, attempt=2), event("t", "FAILED", 1, attempt=0), event("t", "FAILED", 2, attempt=1)
    )
    attempts = tasks.call("GetTask", task_id="t").attempts
    assert [(attempt.attempt, state(attempt)) for attempt in attempts] == [(0, "FAILED"), (1, "FAILED"), (2, "RUNNING")]


def test_jobs_may_have_tasks_of_the_same_name(tasks: Tasks) -> None:
    tasks.add(event("t", "RUNNING", 1, job="b"), event("t", "FAILED", 1, job="a"))
    attempts = tasks.call("GetTask", task_id="t").attempts
    assert [(attempt.job_id, state(attempt)) for attempt in attempts] == [("a", "FAILED"), ("b", "RUNNING")]
    assert [state(attempt) for attempt in tasks.attempts(where("job_id", "b"))] == ["RUNNING"]


def test_a_task_that_is_not_kept_is_not_found_and_named(tasks: Tasks) -> None:
    code, details = tasks.refused("GetTask", task_id="t9")
    assert code == "NOT_FOUND"
    assert "'t9'" in details


def test_a_task_with_more_than_a_response_may_hold_says_so(tasks: Tasks) -> None:
    labels = {str(number): "x" * 1024 for number in range(32)}
    for attempt in range(70):
        tasks.add(event("t", "FAILED", attempt, attempt=attempt, labels=labels))
    got = tasks.call("GetTask", task_id="t")
    assert got.more
    assert got.ByteSize() <= MAX_PAGE_BYTES
    assert [attempt.attempt for attempt in got.attempts] == list(range(len(got.attempts)))
    assert len(tasks.attempts(where("task_id", "t"))) == 70


def test_of_a_task_with_very_many_attempts_the_first_thousand_are_shown(tasks: Tasks) -> None:
    tasks.add(*(event("t", "FAILED", 1, attempt=attempt) for attempt in range(MAX_ATTEMPTS_SHOWN)))
    assert not tasks.call("GetTask", task_id="t").more
    tasks.add(event("t", "FAILED", 1, attempt=MAX_ATTEMPTS_SHOWN))
    got = tasks.call("GetTask", task_id="t")
    assert (got.more, [attempt.attempt for attempt in got.attempts]) == (True, list(range(MAX_ATTEMPTS_SHOWN)))


def test_other_calls_are_answered_while_many_events_are_merged(tasks: Tasks) -> None:
    order: list[str] = []

    async def call(method: str, request: Any) -> None:
        await answer(getattr(tasks.manager, method), request)
        order.append(method)

    async def both() -> None:
        many = task_pb2.AddTaskEventsRequest(events=[event(str(number), "RUNNING", 1) for number in range(2_000)])
        await asyncio.gather(call("AddTaskEvents", many), call("ListJobs", task_pb2.ListJobsRequest()))

    asyncio.run(both())
    assert order == ["ListJobs", "AddTaskEvents"]


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_the_end_of_a_job_fails_what_has_not_ended(tasks: Tasks) -> None:
    tasks.add(event("done", "FINISHED", 1), event("failed", "FAILED", 1, error_type="OOM"), event("runs", "RUNNING", 1))
    tasks.add(event("other", "RUNNING", 1, job="other"))
    tasks.clock.advance(60)
    assert tasks.call("EndJob", job_id="job").failed == 1
    assert [state(the(tasks, name)) for name in ("done", "failed", "runs", "other")] == [
        *("FINISHED", "FAILED", "FAILED", "RUNNING")
    ]
    runs = the(tasks, "runs")
    assert (runs.error_type, runs.states[-1].time) == ("JOB_ENDED", time(60))
    assert "the job ended" in runs.error_message
    assert the(tasks, "failed").error_type == "OOM"
    assert (tasks.job().ended, tasks.job("other").ended) == (True, False)


def test_a_job_may_end_again_and_its_first_end_counts(tasks: Tasks) -> None:
    tasks.add(event("t", "RUNNING", 1))
    tasks.clock.advance(10)
    assert tasks.call("EndJob", job_id="job").failed == 1
    tasks.clock.advance(60)
    assert tasks.call("EndJob", job_id="job").failed == 0
    assert the(tasks).states[-1].time == time(10)


def test_the_end_that_an_attempt_tells_later_itself_counts(tasks: Tasks) -> None:
    tasks.add(event("t", "RUNNING", 1))
    tasks.call("EndJob", job_id="job")
    tasks.add(event("t", "FINISHED", 2))
    assert (state(the(tasks)), the(tasks).error_type, len(the(tasks).states)) == ("FINISHED", "", 2)


def test_events_that_come_after_the_end_of_their_job_are_failed_as_well(tasks: Tasks) -> None:
    tasks.call("EndJob", job_id="job")
    tasks.add(event("t", "RUNNING", 1))
    assert (state(the(tasks)), tasks.job().ended) == ("FAILED", True)


def test_the_end_of_a_large_job_is_done_in_parts_and_shown_at_once(tasks: Tasks) -> None:
    tasks.add(*(event(str(number), "RUNNING", 1) for number in range(2_000)))

    async def both() -> tuple[Any, Any]:
        return await asyncio.gather(
            answer(tasks.manager.EndJob, task_pb2.EndJobRequest(job_id="job")),
            answer(tasks.manager.GetTask, task_pb2.GetTaskRequest(task_id="1999")),
        )

    ended, got = asyncio.run(both())
    assert (ended.failed, state(got.attempts[0])) == (2_000, "FAILED")


def test_jobs_are_listed_by_their_ids_in_pages(tasks: Tasks) -> None:
    tasks.add(event("1", "RUNNING", 1, job="b"), event("2", "RUNNING", 1, job="a"), event("3", "RUNNING", 1, job="c"))
    tasks.add(event("4", "RUNNING", 1, job="b"))
    first = tasks.call("ListJobs", limit=2)
    assert [(job.job_id, job.attempts) for job in first.jobs] == [("a", 1), ("b", 2)]
    rest = tasks.call("ListJobs", limit=2, start_after="b")
    assert ([job.job_id for job in rest.jobs], first.more, rest.more) == (["c"], True, False)


# -- summaries ---------------------------------------------------------------------------------------------------------


def test_a_summary_counts_by_name_kind_and_state_the_most_frequent_first(tasks: Tasks) -> None:
    for number in range(5):
        tasks.add(event(str(number), "RUNNING" if number < 2 else "FINISHED", 1, name="train", kind="actor"))
    tasks.add(event("9", "RUNNING", 1, name="load", job="other"))
    shown = [(entry.name, entry.kind, dict(entry.states)) for entry in tasks.call("SummarizeTasks").summaries]
    assert shown == [("train", "actor", {"FINISHED": 3, "RUNNING": 2}), ("load", "", {"RUNNING": 1})]
    of_job = tasks.call("SummarizeTasks", job_id="other").summaries
    assert [entry.name for entry in of_job] == ["load"]
    assert not tasks.call("SummarizeTasks", job_id="unknown").summaries


def test_a_summary_counts_what_its_jobs_end_has_failed(tasks: Tasks) -> None:
    tasks.add(event("t", "RUNNING", 1))
    tasks.call("EndJob", job_id="job")
    assert dict(tasks.call("SummarizeTasks").summaries[0].states) == {"FAILED": 1}


def test_a_summary_has_the_most_frequent_names_only(tasks: Tasks) -> None:
    for start in range(0, MAX_SUMMARIES + 10, 505):
        tasks.add(*(event(str(number), "RUNNING", 1, name=f"n{number}") for number in range(start, start + 505)))
    tasks.add(event("twice", "RUNNING", 1, name="n1009"))
    summaries = tasks.call("SummarizeTasks").summaries
    assert (len(summaries), summaries[0].name) == (MAX_SUMMARIES, "n1009")


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_malformed_request_is_refused_and_names_its_field(method: str, tasks: Tasks) -> None:
    async def refuse_all() -> None:
        for path, _, request in malformed(task_pb2.DESCRIPTOR.message_types_by_name[f"{method}Request"]):
            refused = await refusal(getattr(tasks.manager, method), request)
            assert refused.code.name == "INVALID_ARGUMENT"
            assert refused.details.startswith(path)

    asyncio.run(refuse_all())
    assert not tasks.call("ListJobs").jobs


def test_a_state_without_a_time_is_refused_and_nothing_is_taken(tasks: Tasks) -> None:
    wrong = task_pb2.TaskEvent(job_id="job", task_id="t", state=task_pb2.TASK_STATE_RUNNING)
    code, details = tasks.refused("AddTaskEvents", events=[event("s", "RUNNING", 1), wrong], dropped={"job": 1})
    assert (code, details) == ("INVALID_ARGUMENT", "events[1].time: is required with a state")
    assert not tasks.call("ListJobs").jobs


def test_every_method_of_the_proto_is_there() -> None:
    service = task_pb2.DESCRIPTOR.services_by_name["TaskService"]
    assert [method.name for method in service.methods] == METHODS
    assert all(method in vars(TaskManager) for method in METHODS)
