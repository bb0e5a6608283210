"""The commands of `atollctl`. Exit codes are in `calling.py`; a server stopped by Ctrl-C or SIGTERM ends with 0."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated

import typer

from atoll.errors import BindError, StoreError
from atoll_control.cli import health, kv, nodes, store, tasks, topics, watch
from atoll_control.cli.calling import EXIT_CODES, USAGE, fail
from atoll_control.server.app import serve as run_server
from atoll_control.server.detector import DetectorSettings
from atoll_control.server.kv_manager import KvSettings
from atoll_control.server.logs import LogFormat, configure
from atoll_control.server.settings import ServerSettings

app = typer.Typer(
    help="Runs and operates the Atoll control plane.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)
app.add_typer(nodes.app, name="nodes")
app.add_typer(kv.app, name="kv")
app.add_typer(watch.app, name="watch")
app.add_typer(topics.app, name="topics")
app.add_typer(tasks.app, name="tasks")
app.add_typer(health.app, name="health")
for command in (store.status, store.backup, store.restore, store.doctor):
    app.command(epilog=EXIT_CODES)(command)

_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\s:\[\]]+):(\d{1,5})")
_MAX_PORT = 65535


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@app.callback()
def commands() -> None:
    """Runs and operates the Atoll control plane."""


@app.command(
    epilog="Stop it with Ctrl-C or SIGTERM: running calls get 5 seconds to finish. "
    "Example: atollctl serve --listen 127.0.0.1:50051 --log-format json"
)
def serve(
    listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Address to listen on. Port 0 takes a free one; the log says which."),
    ] = "127.0.0.1:50051",
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="ATOLL_DATA_DIR",
            metavar="DIRECTORY",
            help="Where nodes, keys and leases are kept; made if it is not there. Without it they are kept in memory, "
            "and are lost when the server ends.",
        ),
    ] = None,
    max_data_bytes: Annotated[
        int | None,
        typer.Option(
            min=1 << 20,
            metavar="BYTES",
            help="How large the database may grow; then changes are refused and reads go on.",
        ),
    ] = None,
    max_kv_bytes: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="BYTES",
            help="What all keys and values together may take in memory; then puts are refused and reads go on.",
        ),
    ] = KvSettings().max_total_bytes,
    heartbeat_interval: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="Nodes are told to send a heartbeat this often, and less often when there are many."
        ),
    ] = 2.0,
    dead_after: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="A node without a sign of life for this long is dead. At least four times the interval; it is "
            "suspect, and probed, after half of it. Time in which the server itself was late does not count against "
            "nodes.",
        ),
    ] = 12.0,
    observe_only: Annotated[
        bool,
        typer.Option("--observe-only", help="Log who would be marked dead, and mark nobody: for trying thresholds."),
    ] = False,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure-beyond-loopback",
            help="Listen on addresses that other machines reach, although whoever reaches them may read and change "
            "everything: there is neither TLS nor a token.",
        ),
    ] = False,
    network_threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            metavar="N",
            help="Native threads that read and write connections. Default: chosen by Atoll.",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat,
        typer.Option(help="Log lines for people or for machines, one per event, on standard error."),
    ] = LogFormat.CONSOLE,
    demo_controls: Annotated[
        bool,
        typer.Option(
            "--demo-controls", hidden=True, help="Offer the service by which `atoll demo` slows a module down."
        ),
    ] = False,
    one_loop: Annotated[
        bool,
        typer.Option("--one-loop", hidden=True, help="Put all modules on one loop, for comparison."),
    ] = False,
    exit_with_stdin: Annotated[
        bool,
        typer.Option("--exit-with-stdin", hidden=True, help="Stop when standard input closes."),
    ] = False,
) -> None:
    """Serves the control plane.

    Membership (atoll.v1.NodeService, HealthService), the key-value store (KvService, LeaseService), watches and topics
    (WatchService, TopicService), task events (TaskService), and what operators need (AdminService).

    Modules live on loops of their own, so a slow one does not delay the others. Any gRPC client in any language can
    connect; the protos are in the package, under atoll_control/api/protos.
    """
    match = _LISTEN.fullmatch(listen)
    if match is None or int(match.group(2)) > _MAX_PORT:
        fail(f'--listen: must be HOST:PORT, for example 127.0.0.1:50051 or "[::1]:50051"; got {listen!r}', USAGE)
    if not insecure and not _is_loopback(match.group(1)):
        fail(
            f"--listen: {match.group(1)} may be reached from other machines, and whoever reaches it may change "
            "everything: listen on 127.0.0.1, or say --insecure-beyond-loopback if the network keeps others away",
            USAGE,
        )
    try:
        detector = DetectorSettings.scaled(
            heartbeat_interval=heartbeat_interval, dead_after=dead_after, observe_only=observe_only
        )
    except ValueError as error:
        fail("--" + str(error).replace("_", "-", 1), USAGE)
    configure(log_format)
    settings = ServerSettings(
        listen=listen,
        data_dir=data_dir,
        max_data_bytes=max_data_bytes,
        detector=detector,
        kv=KvSettings(max_total_bytes=max_kv_bytes),
        network_threads=network_threads,
        demo_controls=demo_controls,
        one_loop=one_loop,
        exit_with_stdin=exit_with_stdin,
    )
    try:
        asyncio.run(run_server(settings))
    except (BindError, StoreError) as error:
        fail(str(error))
