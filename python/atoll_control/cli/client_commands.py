"""The commands of `atollctl` that ask a server or look at files: without what serves, which takes longer to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from atoll_control.cli import health, kv, nodes, store, tasks, tokens, topics, watch
from atoll_control.cli.calling import EXIT_CODES
from atoll_control.cli.connection import add_to_commands

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    help="Runs and operates the Atoll control plane.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)
GROUPS = {
    "nodes": nodes.app,
    "kv": kv.app,
    "watch": watch.app,
    "topics": topics.app,
    "tasks": tasks.app,
    "health": health.app,
    "tokens": tokens.app,
}
COMMANDS: dict[str, Callable[..., None]] = {
    "status": store.status,
    "backup": store.backup,
    "restore": store.restore,
    "doctor": store.doctor,
}
for name, group in GROUPS.items():
    app.add_typer(group, name=name)
for name, command in COMMANDS.items():
    app.command(name, epilog=EXIT_CODES)(command)
# When all are there that have `--server`; `agent` has it among its settings.
add_to_commands(app)


@app.callback()
def commands() -> None:
    """Runs and operates the Atoll control plane."""
