"""`atollctl tasks`: what became of the tasks that run in the cluster."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from atoll_control.api.v1 import task_pb2, task_pb2_grpc
from atoll_control.cli.calling import (
    DEFAULT_SERVER,
    EXIT_CODES,
    USAGE,
    ServerOption,
    TimeoutOption,
    calling,
    fail,
)
from atoll_control.cli.output import (
    Output,
    OutputOption,
    no_end,
    page_through,
    print_messages,
    time_of,
    warn,
    warn_of_more,
)
from atoll_control.client import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(help="Shows task events.", no_args_is_help=True, epilog=EXIT_CODES)

_FILTER = re.compile(r"([A-Za-z0-9_.-]+?)(!?=)(.*)", re.DOTALL)
COLUMNS = ["TASK", "ATTEMPT", "JOB", "NAME", "STATE", "NODE", "SINCE", "ERROR"]


def _row(attempt: task_pb2.TaskAttempt) -> list[str]:
    since = time_of(attempt.states[-1].time) if attempt.states else ""
    state = task_pb2.TaskState.Name(attempt.state).removeprefix("TASK_STATE_").lower()
    error = ": ".join(text for text in (attempt.error_type, attempt.error_message) if text)
    return [attempt.task_id, str(attempt.attempt), attempt.job_id, attempt.name, state, attempt.node_id, since, error]


@app.command(name="list")
def list_tasks(
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            "-f",
            metavar="FIELD=VALUE",
            help="Only attempts whose field has this value, or with != another one: job_id, task_id, name, kind, "
            "node_id, worker_id, parent_task_id, state, error_type, label.KEY. Repeatable; all must hold.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 100,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Lists attempts, the newest first."""
    request = task_pb2.ListTasksRequest()
    for text in filters or []:
        match = _FILTER.fullmatch(text)
        if match is None:
            fail(f"--filter: must be FIELD=VALUE or FIELD!=VALUE, got {text!r}", USAGE)
        field, sign, value = match.groups()
        operator = task_pb2.FILTER_OPERATOR_EQUALS if sign == "=" else task_pb2.FILTER_OPERATOR_NOT_EQUALS
        request.filters.add(field=field, operator=operator, value=value.upper() if field == "state" else value)
    dropped = 0
    with calling(server) as channel:
        stub = task_pb2_grpc.TaskServiceStub(channel)

        def page(count: int) -> tuple[Sequence[task_pb2.TaskAttempt], bool]:
            nonlocal dropped
            request.limit = count
            listed = stub.ListTasks(request, timeout=timeout)
            dropped = listed.dropped
            if listed.next_page_token and listed.next_page_token == request.page_token:
                raise no_end()
            request.page_token = listed.next_page_token
            return listed.attempts, bool(listed.next_page_token)

        # A call looks at so many attempts, of which none may match.
        attempts, more = page_through(page, limit, may_be_empty=True)
    print_messages(output, attempts, COLUMNS, (_row(attempt) for attempt in attempts))
    warn_of_more(more, f"filter, or raise --limit {limit}")
    if dropped:
        warn(f"{dropped:,} attempts or events were dropped: the list may be incomplete")


@app.command()
def show(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's id.")],
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Shows all attempts of a task."""
    with calling(server) as channel:
        request = task_pb2.GetTaskRequest(task_id=task)
        found = task_pb2_grpc.TaskServiceStub(channel).GetTask(request, timeout=timeout)
    print_messages(output, found.attempts, COLUMNS, (_row(attempt) for attempt in found.attempts))
    all_of_them = shlex.quote(f"task_id={task}")
    warn_of_more(found.more, f"see them with: atollctl tasks list --filter {all_of_them} --limit 100000")


@app.command()
def summary(
    job: Annotated[str, typer.Argument(metavar="[JOB]", help="Only of this job.")] = "",
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Counts attempts by name and state."""
    with calling(server) as channel:
        request = task_pb2.SummarizeTasksRequest(job_id=job)
        told = task_pb2_grpc.TaskServiceStub(channel).SummarizeTasks(request, timeout=timeout)
    rows = (
        [one.name, one.kind, " ".join(f"{state.lower()}={count}" for state, count in sorted(one.states.items()))]
        for one in told.summaries
    )
    print_messages(output, told.summaries, ["NAME", "KIND", "STATES"], rows)
    if told.dropped:
        warn(f"{told.dropped:,} attempts or events were dropped: the counts may be incomplete")


@app.command()
def jobs(
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 10_000,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Lists jobs, and how much of their events was dropped."""
    request = task_pb2.ListJobsRequest()
    with calling(server) as channel:
        stub = task_pb2_grpc.TaskServiceStub(channel)
        told = task_pb2.ListJobsResponse()

        def page(count: int) -> tuple[Sequence[task_pb2.Job], bool]:
            nonlocal told
            request.limit = count
            told = stub.ListJobs(request, timeout=timeout)
            if told.jobs:
                request.start_after = told.jobs[-1].job_id
            return told.jobs, told.more

        found, more = page_through(page, limit)
    rows = (
        [
            job.job_id,
            f"{job.attempts:,}",
            f"{job.dropped_here:,}",
            f"{job.dropped_by_senders:,}",
            str(job.ended).lower(),
        ]
        for job in found
    )
    print_messages(output, found, ["JOB", "ATTEMPTS", "DROPPED HERE", "DROPPED BY SENDERS", "ENDED"], rows)
    warn_of_more(more, f"raise --limit {limit}")
    if told.forgotten_jobs:
        warn(
            f"jobs forgotten to make room for others: {told.forgotten_jobs:,}; dropped of them here: "
            f"{told.forgotten_dropped_here:,}, by senders: {told.forgotten_dropped_by_senders:,}"
        )
