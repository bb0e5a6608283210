"""Listings of tasks: filters, pages, and what stays true while attempts come and go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.control.task_events import NOW, Tasks, event, where

from atoll_control.api.v1 import task_pb2
from atoll_control.server.pages import MAX_PAGE_BYTES
from atoll_control.testing import answer


@pytest.fixture
def tasks() -> Tasks:
    tasks = Tasks()
    tasks.add(
        event("1", "RUNNING", 1, name="train", kind="actor", node_id="n1", worker_id="w1", labels={"team": "a"}),
        event("2", "FAILED", 2, name="train", node_id="n2", error_type="OOM", labels={"team": "b"}),
        event("3", "FINISHED", 3, job="other", name="load", parent_task_id="1"),
    )
    return tasks


# -- filters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "equal", "expected"),
    [
        ("job_id", "job", True, "21"),
        ("job_id", "job", False, "3"),
        ("task_id", "2", True, "2"),
        ("task_id", "2", False, "31"),
        ("name", "train", True, "21"),
        ("name", "train", False, "3"),
        ("kind", "actor", True, "1"),
        ("kind", "", True, "32"),
        ("node_id", "n2", True, "2"),
        ("worker_id", "w1", True, "1"),
        ("parent_task_id", "1", True, "3"),
        ("state", "FAILED", True, "2"),
        ("state", "TASK_STATE_FAILED", True, "2"),
        ("state", "FAILED", False, "31"),
        ("error_type", "OOM", True, "2"),
        ("label.team", "a", True, "1"),
        ("label.team", "a", False, "32"),
        ("label.team", "", True, "3"),
        ("job_id", "unknown", True, ""),
        ("task_id", "unknown", True, ""),
    ],
)
def test_a_filter_lists_what_it_says(tasks: Tasks, field: str, value: str, *, equal: bool, expected: str) -> None:
    assert tasks.names(where(field, value, equal=equal)) == list(expected)


def test_all_filters_must_hold(tasks: Tasks) -> None:
    assert tasks.names(where("name", "train"), where("state", "RUNNING", equal=False)) == ["2"]
    assert tasks.names(where("job_id", "job"), where("job_id", "other")) == []
    assert tasks.names(where("task_id", "1"), where("task_id", "2")) == []


def test_what_the_end_of_its_job_has_failed_is_found_by_that(tasks: Tasks) -> None:
    tasks.call("EndJob", job_id="job")
    assert tasks.names(where("state", "FAILED")) == ["2", "1"]
    assert tasks.names(where("error_type", "JOB_ENDED")) == ["1"]


@pytest.mark.parametrize("field", ["atempt", "label.", "labels", "STATE", "facts"])
def test_an_unknown_field_is_refused_with_those_that_are_known(tasks: Tasks, field: str) -> None:
    code, details = tasks.refused("ListTasks", filters=[where("name", "train"), where(field, "x")])
    assert code == "INVALID_ARGUMENT"
    assert details == (
        "filters[1].field: must be one of job_id, task_id, name, kind, node_id, worker_id, parent_task_id, state, "
        f"error_type or label.KEY, got {field!r}"
    )


def test_an_unknown_state_is_refused_with_those_that_are_known(tasks: Tasks) -> None:
    code, details = tasks.refused("ListTasks", filters=[where("state", "DEAD")])
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(
        "filters[0].value: must be one of UNSPECIFIED, PENDING, SCHEDULED, RUNNING, FINISHED, FAILED"
    )


# -- pages -------------------------------------------------------------------------------------------------------------


def filled(count: int, **settings: Any) -> Tasks:
    tasks = Tasks(**settings)
    for start in range(0, count, 5_000):
        tasks.add(*(event(str(number), "RUNNING", 1) for number in range(start, min(start + 5_000, count))))
    return tasks


def test_the_newest_are_listed_first_whatever_the_limit() -> None:
    tasks = filled(25)
    expected = [str(number) for number in reversed(range(25))]
    for limit in (1, 7, 25, 26):
        assert tasks.names(limit=limit) == expected


def test_a_page_without_a_limit_has_a_hundred() -> None:
    assert len(filled(150).call("ListTasks").attempts) == 100


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_first_page_that_has_all_has_no_token(count: int) -> None:
    page = filled(count).call("ListTasks", limit=5)
    assert (len(page.attempts), page.matched, page.next_page_token) == (count, count, "")


def test_the_first_page_tells_how_many_match_beyond_it() -> None:
    tasks = filled(3_000)
    assert tasks.call("ListTasks", limit=10).matched == 3_000
    assert tasks.call("ListTasks", limit=10, filters=[where("task_id", "7")]).matched == 1


def test_one_call_looks_at_so_many_and_no_more_and_the_next_goes_on() -> None:
    tasks = filled(100, max_looked_at=30)
    pages = 0
    token = ""
    found: list[str] = []
    while True:
        page = tasks.call("ListTasks", filters=[where("state", "RUNNING", equal=False)], page_token=token)
        pages += 1
        assert not page.attempts
        if not (token := page.next_page_token):
            break
    assert pages == 4
    tasks.add(event("3", "FAILED", 2))
    found = tasks.names(where("state", "FAILED"))
    assert found == ["3"]


def test_pages_are_no_larger_than_two_mebibytes_and_leave_nothing_out() -> None:
    tasks = Tasks()
    labels = {str(number): "x" * 1024 for number in range(32)}
    for number in range(150):
        tasks.add(event(str(number), "FAILED", 1, labels=labels))
    token = ""
    sizes: list[int] = []
    names: list[str] = []
    while True:
        page = tasks.call("ListTasks", limit=10_000, page_token=token)
        sizes.append(page.ByteSize())
        names += [attempt.task_id for attempt in page.attempts]
        if not (token := page.next_page_token):
            break
    assert max(sizes) <= MAX_PAGE_BYTES + 200  # the token and the counters
    assert len(sizes) == 3
    assert names == [str(number) for number in reversed(range(150))]


def test_a_listing_goes_on_where_the_attempt_it_stopped_at_has_gone() -> None:
    tasks = Tasks(max_attempts=10)
    tasks.add(*(event(str(number), "FINISHED", 1) for number in range(10)))
    page = tasks.call("ListTasks", limit=7)
    assert page.attempts[-1].task_id == "3"
    tasks.add(*(event(f"new{number}", "FINISHED", 1) for number in range(5)))
    rest = tasks.call("ListTasks", limit=7, page_token=page.next_page_token)
    assert [attempt.task_id for attempt in rest.attempts] == []
    assert rest.next_page_token == ""


@given(
    st.lists(st.sampled_from(["page", "add", "fail", "other job"]), max_size=40),
    st.integers(1, 5),
    st.integers(1, 9),
    st.booleans(),
)
def test_what_stays_is_listed_once_whatever_comes_and_goes(
    steps: list[str],
    limit: int,
    max_looked_at: int,
    of_job: bool,  # noqa: FBT001 - hypothesis fills it
) -> None:
    tasks = Tasks(max_attempts=12, max_looked_at=max_looked_at)
    tasks.add(*(event(str(number), "FINISHED", 1, job=f"job{number % 2}") for number in range(12)))
    filters = [where("job_id", "job1")] if of_job else []
    there = set(tasks.names(*filters))
    listed: list[str] = []
    token = ""
    ended = False
    for step, what in enumerate([*steps, *["page"] * 30]):
        if what == "add":
            tasks.add(event(f"new{step}", "FINISHED", 1, job="job1"))
        elif what == "fail":
            if "3" in tasks.names():
                tasks.add(event("3", "FAILED", step, job="job1"))
        elif what == "other job":
            tasks.add(event(f"new{step}", "FAILED", 1, job="job2"))
        elif not ended:
            page = tasks.call("ListTasks", filters=filters, limit=limit, page_token=token)
            listed += [attempt.task_id for attempt in page.attempts]
            token = page.next_page_token
            ended = not token
    assert ended
    assert len(listed) == len(set(listed))
    assert there & set(tasks.names()) <= set(listed)


def test_other_calls_are_answered_while_a_page_is_put_together() -> None:
    tasks = filled(10_000)
    order: list[str] = []

    async def call(method: str, request: Any) -> None:
        await answer(getattr(tasks.manager, method), request)
        order.append(method)

    async def both() -> None:
        await asyncio.gather(
            call("ListTasks", task_pb2.ListTasksRequest(limit=10_000)),
            call("SummarizeTasks", task_pb2.SummarizeTasksRequest()),
            call("GetTask", task_pb2.GetTaskRequest(task_id="7")),
        )

    asyncio.run(both())
    assert order[0] == "GetTask"


def test_attempts_that_go_while_a_page_is_put_together_do_it_no_harm() -> None:
    tasks = Tasks(max_attempts=5_000)
    tasks.add(*(event(str(number), "FINISHED", 1) for number in range(5_000)))
    events = [event(f"new{number}", "FINISHED", 1) for number in range(5_000)]

    async def both() -> Any:
        page, _ = await asyncio.gather(
            answer(tasks.manager.ListTasks, task_pb2.ListTasksRequest(limit=5_000)),
            answer(tasks.manager.AddTaskEvents, task_pb2.AddTaskEventsRequest(events=events)),
        )
        return page

    names = [attempt.task_id for attempt in asyncio.run(both()).attempts]
    assert len(names) == len(set(names)) > 0
    assert not any(name.startswith("new") for name in names)


# -- tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["x", "!", "é", "AAAA", "A" * 256])
def test_a_token_that_is_none_is_refused_by_its_name(tasks: Tasks, token: str) -> None:
    code, details = tasks.refused("ListTasks", page_token=token)
    assert code == "INVALID_ARGUMENT"
    assert details.startswith("page_token: ")
    assert "leave it out" in details


def test_a_token_of_other_filters_is_refused() -> None:
    tasks = filled(10)
    token = tasks.call("ListTasks", limit=5).next_page_token
    code, details = tasks.refused("ListTasks", filters=[where("name", "x")], page_token=token)
    assert code == "INVALID_ARGUMENT"
    assert "other filters" in details


def test_a_token_of_another_run_of_the_server_is_refused() -> None:
    token = filled(10).call("ListTasks", limit=5).next_page_token
    later = Tasks(wall=NOW + 60.0)
    code, details = later.refused("ListTasks", page_token=token)
    assert code == "INVALID_ARGUMENT"
    assert "started anew" in details
