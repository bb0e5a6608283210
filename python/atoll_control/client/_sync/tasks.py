# Made of _aio/tasks.py by scripts/make_sync_client.py: change that, and run it.
"""`client.tasks`: task events."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from atoll_control.api.v1 import task_pb2, task_pb2_grpc
from atoll_control.client._values import no_end

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import grpc

    from atoll_control.client._sync._channel import RoutedChannel


class Tasks:
    """Task events. `timeout` is in seconds, for all attempts of a call together, and the client's when None."""

    def __init__(self, channel: RoutedChannel) -> None:
        """`Client` makes it."""
        self._stub: task_pb2_grpc.TaskServiceStub = task_pb2_grpc.TaskServiceStub(cast("grpc.Channel", channel))

    def report(
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
        return self._stub.AddTaskEvents(request, timeout=timeout)

    def list(
        self,
        filters: Iterable[task_pb2.TaskFilter] = (),
        *,
        page_size: int = 100,
        timeout: float | None = None,
    ) -> Iterator[task_pb2.TaskAttempt]:
        """Attempts, the newest first, read page by page as they are asked for; all filters must hold."""
        request = task_pb2.ListTasksRequest(filters=filters, limit=page_size)
        while True:
            page = self._stub.ListTasks(request, timeout=timeout)
            for attempt in page.attempts:
                yield attempt
            if not page.next_page_token:
                return
            if page.next_page_token == request.page_token:
                raise no_end("ListTasks")
            request.page_token = page.next_page_token

    def get(self, task_id: str, *, timeout: float | None = None) -> task_pb2.GetTaskResponse:
        """The attempts of a task, the first first.

        Raises:
            NotFoundError: no event of it is kept.
        """
        return self._stub.GetTask(task_pb2.GetTaskRequest(task_id=task_id), timeout=timeout)

    def summarize(self, job_id: str = "", *, timeout: float | None = None) -> task_pb2.SummarizeTasksResponse:
        """Counts by name and state; of one job, or of all."""
        return self._stub.SummarizeTasks(task_pb2.SummarizeTasksRequest(job_id=job_id), timeout=timeout)

    def end_job(self, job_id: str, *, timeout: float | None = None) -> task_pb2.EndJobResponse:
        """Says that a job has ended: its attempts that have not are shown as failed."""
        return self._stub.EndJob(task_pb2.EndJobRequest(job_id=job_id), timeout=timeout)
