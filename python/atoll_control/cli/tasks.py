"""`atollctl tasks`: what became of the tasks that run in the cluster."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from atoll_control.api.v1 import task_pb2, task_pb2_grpc
from atoll_control.cli.calling import (
    DEFAULT_SERVER,
    DEFAULT_TIMEOUT,
    EXIT_CODES,
    USAGE,
    ServerOption,
    TimeoutOption,
    calling,
    fail,
)
from atoll_control.cli.output import Output, OutputOption, print_messages

app = typer.Typer(help="Shows task events.", no_args_is_help=True, epilog=EXIT_CODES)

_FILTER = re.compile(r"([A-Za-z0-9_.-]+?)(!?=)(.*)", re.DOTALL)
COLUMNS = ["TASK", "ATTEMPT", "JOB", "NAME", "STATE", "NODE", "SINCE", "ERROR"]


def _row(attempt: task_pb2.TaskAttempt) -> list[str]:
    since = attempt.states[-1].time.ToDatetime().isoformat(sep=" ", timespec="seconds") if attempt.states else ""
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
    attempts: list[task_pb2.TaskAttempt] = []
    dropped = 0
    with calling(server) as channel:
        stub = task_pb2_grpc.TaskServiceStub(channel)
        while True:
            request.limit = min(1000, limit - len(attempts))
            page = stub.ListTasks(request, timeout=timeout)
            attempts.extend(page.attempts)
            dropped = page.dropped
            request.page_token = page.next_page_token
            if not request.page_token or len(attempts) >= limit:
                break
    print_messages(output, attempts, COLUMNS, (_row(attempt) for attempt in attempts))
    if request.page_token:
        typer.echo(f"atollctl: there are more: filter, or raise --limit {limit}", err=True)
    if dropped:
        typer.echo(f"atollctl: {dropped:,} attempts or events were dropped: the list may be incomplete", err=True)


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


@app.command()
def jobs(
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Lists jobs, and how much of their events was dropped."""
    with calling(server) as channel:
        told = task_pb2_grpc.TaskServiceStub(channel).ListJobs(task_pb2.ListJobsRequest(limit=10_000), timeout=timeout)
    rows = (
        [
            job.job_id,
            f"{job.attempts:,}",
            f"{job.dropped_here:,}",
            f"{job.dropped_by_senders:,}",
            str(job.ended).lower(),
        ]
        for job in told.jobs
    )
    print_messages(output, told.jobs, ["JOB", "ATTEMPTS", "DROPPED HERE", "DROPPED BY SENDERS", "ENDED"], rows)
