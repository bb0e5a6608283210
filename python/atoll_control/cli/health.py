"""`atollctl health`: the failure detector."""

from __future__ import annotations

from typing import Annotated

import typer

from atoll_control.api.v1 import health_pb2, health_pb2_grpc
from atoll_control.cli.calling import (
    DEFAULT_SERVER,
    EXIT_CODES,
    ServerOption,
    TimeoutOption,
    calling,
)
from atoll_control.cli.nodes import detector_fields
from atoll_control.cli.output import Output, OutputOption, print_fields
from atoll_control.client import DEFAULT_TIMEOUT

app = typer.Typer(help="Shows and holds the failure detector.", no_args_is_help=True, epilog=EXIT_CODES)

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes to the audit log.")]


@app.command()
def show(
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Shows the detector: its lag, its thresholds, and whether verdicts are held."""
    with calling(server) as channel:
        stub = health_pb2_grpc.HealthServiceStub(channel)
        told = stub.GetDetector(health_pb2.GetDetectorRequest(), timeout=timeout).detector
    print_fields(output, told, detector_fields(told))


@app.command()
def freeze(
    reason: ReasonOption = "",
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Holds all verdicts: nobody is marked dead until `resume`."""
    with calling(server) as channel:
        stub = health_pb2_grpc.HealthServiceStub(channel)
        told = stub.Freeze(health_pb2.FreezeRequest(reason=reason), timeout=timeout).detector
    print_fields(output, told, detector_fields(told))


@app.command()
def resume(
    reason: ReasonOption = "",
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Lets verdicts be passed again, also where the brake has stopped them."""
    with calling(server) as channel:
        stub = health_pb2_grpc.HealthServiceStub(channel)
        told = stub.Resume(health_pb2.ResumeRequest(reason=reason), timeout=timeout).detector
    print_fields(output, told, detector_fields(told))
