"""`client.tasks`: task events."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from atoll_control.api.v1 import task_pb2, task_pb2_grpc
from atoll_control.client._values import no_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    import grpc
    import grpc.aio

    from atoll_control.client._aio._channel import RoutedChannel


class Tasks:
    """Task events. `timeout` is in seconds, for all attempts of a call together, and the client's when None."""

    def __init__(self, channel: RoutedChannel) -> None:
        """`AsyncClient` makes it."""
        self._stub: task_pb2_grpc.TaskServiceAsyncStub = task_pb2_grpc.TaskServiceStub(
            cast("grpc.aio.Channel", channel)
        )

    async def report(
        self,
        events: Iterable[task_pb2.TaskEvent],
        *,
        dropped: Mapping[str, int] | None = None,
        timeout: float | None = None,
    ) -> task_pb2.AddTaskEventsResponse:
        """Adds events, up to 10,000; in any order, and more than once does no harm.

        Args:
            events: what became of tasks.
            dropped: how many events the caller itself had to drop, by job.
            timeout: in seconds.

        Raises:
            UnknownOutcomeError: only with `dropped`, which would be counted twice.
        """
        request = task_pb2.AddTaskEventsRequest(events=events, dropped=dropped)
        return await self._stub.AddTaskEvents(request, timeout=timeout)

    async def list(
        self,
        filters: Iterable[task_pb2.TaskFilter] = (),
        *,
        page_size: int = 100,
        timeout: float | None = None,
    ) -> AsyncIterator[task_pb2.TaskAttempt]:
        """Attempts, the newest first, read page by page as they are asked for; all filters must hold."""
        request = task_pb2.ListTasksRequest(filters=filters, limit=page_size)
        while True:
            page = await self._stub.ListTasks(request, timeout=timeout)
            for attempt in page.attempts:
                yield attempt
            if not page.next_page_token:
                return
            if page.next_page_token == request.page_token:
                raise no_end("ListTasks")
            request.page_token = page.next_page_token

    async def get(self, task_id: str, *, timeout: float | None = None) -> task_pb2.GetTaskResponse:
        """The attempts of a task, the first first.

        Raises:
            NotFoundError: no event of it is kept.
        """
        return await self._stub.GetTask(task_pb2.GetTaskRequest(task_id=task_id), timeout=timeout)

    async def summarize(self, job_id: str = "", *, timeout: float | None = None) -> task_pb2.SummarizeTasksResponse:
        """Counts by name and state; of one job, or of all."""
        return await self._stub.SummarizeTasks(task_pb2.SummarizeTasksRequest(job_id=job_id), timeout=timeout)

    async def end_job(self, job_id: str, *, timeout: float | None = None) -> task_pb2.EndJobResponse:
        """Says that a job has ended: its attempts that have not are shown as failed."""
        return await self._stub.EndJob(task_pb2.EndJobRequest(job_id=job_id), timeout=timeout)
