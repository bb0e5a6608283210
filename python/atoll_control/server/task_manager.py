"""`TaskManager`: what became of the tasks that run in the cluster, for people who look for it.

In memory and bounded: see `task_table.py` for what is kept and `task_attempts.py` for how events are merged. Only its
own loop enters it, so it has no locks. What takes long (10,000 events, a page through many attempts, the end of a large
job) is done in parts, between which other handlers get their turn.

Figures are in docs/design/2026-11-28-control-plane.md.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio

from atoll_control.api.v1 import task_pb2, task_pb2_grpc
from atoll_control.server.calls import check
from atoll_control.server.pages import DEFAULT_PAGE, MAX_PAGE_BYTES
from atoll_control.server.task_attempts import KIND, NAME, STATE_NAMES
from atoll_control.server.task_filters import FilterError, filters_of
from atoll_control.server.task_pages import FIELD_BYTES, MESSAGES_AT_A_TIME, TokenError, page_of
from atoll_control.server.task_table import NewestFirst, TaskSettings, TaskTable

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_SUMMARIES: Final = 1_000
# Of one task, by GetTask; ListTasks has them all.
MAX_ATTEMPTS_SHOWN: Final = 1_000
# Events that are merged, or attempts that are marked, before other handlers get their turn.
_AT_A_TIME: Final = 500
_SECOND: Final = 1_000_000_000
_NO_JOB: Final = NewestFirst()


@dataclass(frozen=True, slots=True)
class TaskStatistics:
    """What is kept and was dropped.

    Attributes:
        attempts: that are kept.
        bytes: what they take, as it is estimated.
        jobs: that are known.
        dropped_here: attempts that had to go, of all jobs that there ever were.
        dropped_by_senders: events that never came, as those say who report.
    """

    attempts: int
    bytes: int
    jobs: int
    dropped_here: int
    dropped_by_senders: int


class TaskManager(task_pb2_grpc.TaskServiceServicer):
    """The module behind `TaskService`. See this file's first lines for its rules."""

    def __init__(self, settings: TaskSettings | None = None, *, wall_clock: Callable[[], float]) -> None:
        """Knows of no task.

        Args:
            settings: how much is kept.
            wall_clock: seconds since 1970.
        """
        self._settings = settings or TaskSettings()
        self._wall_clock = wall_clock
        self._table = TaskTable(self._settings)
        # Tells the tokens of this run from those of another.
        self._run = int(wall_clock() * _SECOND)

    def statistics(self) -> TaskStatistics:
        """What is kept and was dropped."""
        table = self._table
        return TaskStatistics(len(table), table.bytes, table.jobs, table.dropped_here, table.dropped_by_senders)

    async def AddTaskEvents(
        self,
        request: task_pb2.AddTaskEventsRequest,
        context: grpc.aio.ServicerContext[task_pb2.AddTaskEventsRequest, task_pb2.AddTaskEventsResponse],
    ) -> task_pb2.AddTaskEventsResponse:
        """Merges events."""
        await check(request, context)
        if (problem := _time_problem(request)) is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        table = self._table
        evicted = sum(table.add_dropped(job_id, count) for job_id, count in request.dropped.items())
        for number, event in enumerate(request.events, 1):
            evicted += table.add(event)
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)
        return task_pb2.AddTaskEventsResponse(accepted=len(request.events), evicted=evicted)

    async def ListTasks(
        self,
        request: task_pb2.ListTasksRequest,
        context: grpc.aio.ServicerContext[task_pb2.ListTasksRequest, task_pb2.ListTasksResponse],
    ) -> task_pb2.ListTasksResponse:
        """Lists attempts."""
        await check(request, context)
        try:
            filters = filters_of(request.filters)
            response = await page_of(self._table, request, filters, self._run, self._settings.max_looked_at)
        except (FilterError, TokenError) as wrong:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(wrong))
        response.dropped = self._dropped(filters.job_id)
        return response

    async def GetTask(
        self,
        request: task_pb2.GetTaskRequest,
        context: grpc.aio.ServicerContext[task_pb2.GetTaskRequest, task_pb2.GetTaskResponse],
    ) -> task_pb2.GetTaskResponse:
        """Shows the attempts of a task."""
        await check(request, context)
        attempts = self._table.attempts_of(request.task_id)
        if not attempts:
            missing = f"no event of the task {request.task_id!r} is kept: it is unknown, or had to make room for others"
            await context.abort(grpc.StatusCode.NOT_FOUND, missing)
        response = task_pb2.GetTaskResponse()
        size = 0
        for number, attempt in enumerate(attempts, 1):
            message = attempt.message()
            size += message.ByteSize() + FIELD_BYTES
            if number > MAX_ATTEMPTS_SHOWN or (response.attempts and size > MAX_PAGE_BYTES):
                response.more = True
                break
            response.attempts.append(message)
            if number % MESSAGES_AT_A_TIME == 0:
                await asyncio.sleep(0)
        return response

    async def SummarizeTasks(
        self,
        request: task_pb2.SummarizeTasksRequest,
        context: grpc.aio.ServicerContext[task_pb2.SummarizeTasksRequest, task_pb2.SummarizeTasksResponse],
    ) -> task_pb2.SummarizeTasksResponse:
        """Counts attempts by name, kind and state."""
        await check(request, context)
        table = self._table
        attempts = table.newest_first
        if request.job_id:
            job = table.job(request.job_id)
            attempts = _NO_JOB if job is None else job.newest_first
        counts: dict[tuple[str, str], Counter[int]] = {}
        before = table.next_number
        while some := attempts.before(before):
            for attempt in some:
                group = attempt.facts[NAME], attempt.facts[KIND]
                if (states := counts.get(group)) is None:
                    states = counts[group] = Counter()
                states[attempt.state] += 1
            before = some[-1].number
            await asyncio.sleep(0)
        ranked = sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
        response = task_pb2.SummarizeTasksResponse(dropped=self._dropped(request.job_id or None))
        for (name, kind), states in ranked[:MAX_SUMMARIES]:
            named = {STATE_NAMES[state]: count for state, count in states.items()}
            response.summaries.add(name=name, kind=kind, states=named)
        return response

    async def ListJobs(
        self,
        request: task_pb2.ListJobsRequest,
        context: grpc.aio.ServicerContext[task_pb2.ListJobsRequest, task_pb2.ListJobsResponse],
    ) -> task_pb2.ListJobsResponse:
        """Lists jobs."""
        await check(request, context)
        limit = request.limit or DEFAULT_PAGE
        jobs = self._table.jobs_after(request.start_after)
        forgotten = self._table.forgotten
        response = task_pb2.ListJobsResponse(
            more=len(jobs) > limit,
            forgotten_jobs=forgotten.jobs,
            forgotten_dropped_here=forgotten.dropped_here,
            forgotten_dropped_by_senders=forgotten.dropped_by_senders,
        )
        for job in jobs[:limit]:
            response.jobs.add(
                job_id=job.job_id,
                attempts=len(job.queues),
                dropped_here=job.dropped_here,
                dropped_by_senders=job.dropped_by_senders,
                ended=job.ended_at is not None,
            )
        return response

    async def EndJob(
        self,
        request: task_pb2.EndJobRequest,
        context: grpc.aio.ServicerContext[task_pb2.EndJobRequest, task_pb2.EndJobResponse],
    ) -> task_pb2.EndJobResponse:
        """Marks what has not ended as failed."""
        await check(request, context)
        job = self._table.end_job(request.job_id, int(self._wall_clock() * _SECOND))
        # They are shown as failed from here on; what is left is to let them go as late as failures do.
        failed = 0
        while marked := self._table.fail_unfinished(job, _AT_A_TIME):
            failed += marked
            await asyncio.sleep(0)
        return task_pb2.EndJobResponse(failed=failed)

    def _dropped(self, job_id: str | None) -> int:
        """What was dropped of a job, or of all; nothing of a job that is not known."""
        if job_id is None:
            return self._table.dropped
        job = self._table.job(job_id)
        return 0 if job is None else job.dropped


def _time_problem(request: task_pb2.AddTaskEventsRequest) -> str | None:
    for index, event in enumerate(request.events):
        if event.state and not event.HasField("time"):
            return f"events[{index}].time: is required with a state"
    return None
