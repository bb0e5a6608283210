"""`atollctl status`, `backup`, `restore` and `doctor`: the server and its data."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

import atoll.store
from atoll.errors import StoreError
from atoll_control.api.v1 import admin_pb2, admin_pb2_grpc
from atoll_control.cli.calling import (
    COULD_NOT,
    DEFAULT_SERVER,
    ServerOption,
    TimeoutOption,
    calling,
    fail,
)
from atoll_control.cli.output import Output, OutputOption, print_data, print_fields, seconds_of
from atoll_control.client import DEFAULT_TIMEOUT

DataDirectory = Annotated[
    Path, typer.Option("--data-dir", envvar="ATOLL_DATA_DIR", metavar="DIRECTORY", help="The server's data directory.")
]


def status(
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Shows what the server is: its role, its store, and how much it holds."""
    with calling(server) as channel:
        told = admin_pb2_grpc.AdminServiceStub(channel).GetServer(admin_pb2.GetServerRequest(), timeout=timeout)
    fields = [
        ("server", f"{told.server_id}, Atoll {told.version}, up {seconds_of(told.uptime)}"),
        ("role", admin_pb2.ServerRole.Name(told.role).removeprefix("SERVER_ROLE_").lower()),
        ("leader", told.leader_address or "-"),
        ("store", f"{told.engine}, generation {told.generation}, epoch {told.epoch}"),
        ("revision", f"{told.revision}, watches resume after {told.oldest_revision}"),
    ]
    fields += [(f"table {table.name}", f"{table.rows:,} rows, {table.bytes:,} bytes") for table in told.tables]
    print_fields(output, told, fields)


def backup(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; must not be there yet.")],
    server: ServerOption = DEFAULT_SERVER,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=1)] = 3600.0,
) -> None:
    """Takes a backup through the server, which goes on serving."""
    is_there = f"{path} is there already: name another file, or move it away"
    if path.exists():
        fail(is_there)
    try:
        # Whatever ends this, nothing is left; nor do two of these write into one file.
        with tempfile.TemporaryDirectory(prefix=f"{path.name}.partial-", dir=path.parent) as folder:
            draft = Path(folder, path.name)
            first = _receive(draft, server, timeout)
            size = draft.stat().st_size
            if size != first.total_bytes:
                fail(f"the backup has {size:,} of {first.total_bytes:,} bytes: try again")
            if problems := atoll.store.check(draft).problems:
                fail(f"the backup arrived damaged: {problems[0]}; try again")
            if not _take_name(draft, path):
                fail(is_there)
        _sync_name(path)
    except (OSError, StoreError) as problem:
        fail(f"the backup could not be written: {problem}")
    typer.echo(f"{path}: {size:,} bytes, generation {first.generation}, revision {first.revision}; checked")


def _receive(draft: Path, server: list[str], timeout: float) -> admin_pb2.BackupChunk:
    """Writes what the server sends into a file, durably. The first chunk, which says what there is to come."""
    # All that the store has is in it, so it is for its owner alone.
    draft.touch(mode=0o600, exist_ok=False)
    with calling(server) as channel, draft.open("wb") as file:
        chunks = admin_pb2_grpc.AdminServiceStub(channel).Backup(admin_pb2.BackupRequest(), timeout=timeout)
        first = next(chunks, None)
        if first is None:
            fail("the server sent nothing and called it a backup: read its log, and try again")
        with _progress() as progress:
            task = progress.add_task("backup", total=first.total_bytes)
            for chunk in chunks:
                file.write(chunk.data)
                progress.advance(task, len(chunk.data))
        file.flush()
        os.fsync(file.fileno())
    return first


def _take_name(draft: Path, path: Path) -> bool:
    """Gives a finished file its name, unless something has that name by now."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    try:
        draft.replace(path)
    except BaseException:
        # An interrupt may come when it has its name already.
        if draft.exists():
            path.unlink()
        raise
    return True


def _sync_name(path: Path) -> None:
    """Makes a file's name durable; ends the command where that can't be, and leaves the file."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as problem:
        fail(f"{path} is whole, but a loss of power may take its name ({problem}): copy it to another disk")


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", exists=True, dir_okay=False, help="The backup.")],
    data_dir: DataDirectory,
    force: Annotated[
        bool, typer.Option("--force", help="Also where there is a store: its file is kept beside the new one.")
    ] = False,
) -> None:
    """Makes a store of a backup. Stop the server first; watches of clients begin anew afterwards."""
    try:
        restored = atoll.store.restore(source, data_dir, force=force)
    except StoreError as problem:
        fail(str(problem))
    typer.echo(
        f"{data_dir}: {restored.rows:,} rows at revision {restored.revision}; "
        f"the new generation is {restored.generation}"
    )
    if restored.replaced is not None:
        typer.echo(f"what was there is now {restored.replaced}; delete it when you no longer need it")


def doctor(
    data_dir: Annotated[Path, typer.Argument(metavar="DIRECTORY_OR_BACKUP", help="What to look through.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Looks through a data directory or a backup for damage, and says what to do. Exit code 1 when there is some."""
    try:
        report = atoll.store.check(data_dir)
    except StoreError as problem:
        fail(str(problem))
    tables = dict(report.tables)
    if output is not Output.TABLE:
        print_data(
            output,
            {
                "path": str(report.path),
                "schema_version": report.schema_version,
                "generation": report.generation,
                "epoch": report.epoch,
                "revision": report.revision,
                "tables": tables,
                "bytes": report.bytes,
                "locked_by": report.locked_by,
                "is_clean": report.is_clean,
                "problems": report.problems,
            },
        )
    else:
        typer.echo(f"{report.path}: {report.bytes:,} bytes, schema {report.schema_version}")
        typer.echo(f"generation {report.generation}, epoch {report.epoch}, revision {report.revision}")
        for name, rows in tables.items():
            typer.echo(f"table {name}: {rows:,} rows")
        if report.locked_by:
            typer.echo(f"in use by {report.locked_by}")
        elif not report.is_clean:
            typer.echo("it was not closed cleanly; the next start brings it in order")
        for found in report.problems:
            typer.echo(f"PROBLEM: {found}")
        typer.echo("it is damaged: restore a backup with `atollctl restore`" if report.problems else "it is sound")
    if report.problems:
        raise typer.Exit(COULD_NOT)
