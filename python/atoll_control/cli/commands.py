"""The commands of `atollctl`. Exit codes are in `calling.py`; a server stopped by Ctrl-C or SIGTERM ends with 0."""

from __future__ import annotations

import typer

from atoll_control.cli import agent, health, kv, nodes, serve, store, tasks, tokens, topics, watch
from atoll_control.cli.calling import EXIT_CODES
from atoll_control.cli.connection import add_to_commands
from atoll_control.cli.setting_flags import PLACES

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
app.add_typer(tokens.app, name="tokens")
app.add_typer(serve.config_app, name="config")
app.command(
    epilog="Stop it with Ctrl-C or SIGTERM: running calls get the grace to finish. "
    f"{PLACES} Example: atollctl serve --listen 127.0.0.1:50051 --log-format json"
)(serve.serve)
for command in (store.status, store.backup, store.restore, store.doctor):
    app.command(epilog=EXIT_CODES)(command)
# When all are there.
add_to_commands(app)
# These have them among their settings.
app.command(epilog=agent.EPILOG)(agent.agent)
serve.config_app.command("agent", epilog=f"{agent.AGENT_PLACES} {EXIT_CODES}")(agent.show)


@app.callback()
def commands() -> None:
    """Runs and operates the Atoll control plane."""
