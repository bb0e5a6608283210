"""A TaskManager that is called without a network, and short ways to make events for it."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from atoll_control.api.v1 import task_pb2
from atoll_control.server.task_manager import TaskManager
from atoll_control.server.task_table import TaskSettings
from atoll_control.testing import ManualLoop, answer, refusal

NOW = 1_700_000_000


def event(task: str, state: str = "", at: float = 0, job: str = "job", attempt: int = 0, **facts: Any) -> Any:
    """An event, `at` seconds after the beginning of the test."""
    made = task_pb2.TaskEvent(job_id=job, task_id=task, attempt=attempt, **facts)
    if state:
        made.state = task_pb2.TaskState.Value(f"TASK_STATE_{state}")
        made.time.CopyFrom(time(at))
    return made


def time(at: float) -> Timestamp:
    return Timestamp(seconds=NOW + int(at), nanos=round(at % 1 * 1e9))


def where(field: str, value: str, *, equal: bool = True) -> task_pb2.TaskFilter:
    operator = task_pb2.FILTER_OPERATOR_EQUALS if equal else task_pb2.FILTER_OPERATOR_NOT_EQUALS
    return task_pb2.TaskFilter(field=field, operator=operator, value=value)


class Tasks:
    """A TaskManager; `clock` is its wall clock."""

    def __init__(self, *, wall: float = NOW, **settings: Any) -> None:
        self.clock = ManualLoop(wall=wall)
        self.manager = TaskManager(TaskSettings(**settings), wall_clock=self.clock.wall)

    def call(self, method: str, **fields: Any) -> Any:
        request = getattr(task_pb2, f"{method}Request")(**fields)
        return asyncio.run(answer(getattr(self.manager, method), request))

    def refused(self, method: str, **fields: Any) -> tuple[str, str]:
        request = getattr(task_pb2, f"{method}Request")(**fields)
        refused = asyncio.run(refusal(getattr(self.manager, method), request))
        return refused.code.name, refused.details

    def add(self, *events: Any, **fields: Any) -> Any:
        return self.call("AddTaskEvents", events=events, **fields)

    def attempts(self, *filters: task_pb2.TaskFilter, **fields: Any) -> list[Any]:
        """All attempts that match, page by page."""
        found: list[Any] = []
        token = ""
        while True:
            page = self.call("ListTasks", filters=filters, page_token=token, **fields)
            found += page.attempts
            token = page.next_page_token
            if not token:
                return found

    def names(self, *filters: task_pb2.TaskFilter, **fields: Any) -> list[str]:
        return [attempt.task_id for attempt in self.attempts(*filters, **fields)]

    def job(self, job_id: str = "job") -> Any:
        return next(job for job in self.call("ListJobs").jobs if job.job_id == job_id)
