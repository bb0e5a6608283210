"""All commands of `atollctl`. Exit codes are in `calling.py`; a server stopped by Ctrl-C or SIGTERM ends with 0."""

from __future__ import annotations

from atoll_control.cli import agent, serve
from atoll_control.cli.calling import EXIT_CODES
from atoll_control.cli.client_commands import app
from atoll_control.cli.setting_flags import PLACES

__all__ = ["app"]

app.add_typer(serve.config_app, name="config")
app.command(
    epilog="Stop it with Ctrl-C or SIGTERM: running calls get the grace to finish. "
    f"{PLACES} Example: atollctl serve --listen 127.0.0.1:50051 --log-format json"
)(serve.serve)
app.command(epilog=agent.EPILOG)(agent.agent)
serve.config_app.command("agent", epilog=f"{agent.AGENT_PLACES} {EXIT_CODES}")(agent.show)
