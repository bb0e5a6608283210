"""`atollctl agent` and `atollctl config agent`: makes this machine a node, and shows what the agent would be told."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from atoll_control.agent.app import run
from atoll_control.agent.errors import AgentError, PlaceTakenError, RegistrationRefusedError, StateInUseError
from atoll_control.agent.state import StateDirectory
from atoll_control.cli.agent_options import (
    AGENT_FILE,
    AGENT_FILE_VARIABLE,
    TOKEN_VARIABLE,
    AgentOptions,
    agent_settings,
    state_directory,
)
from atoll_control.cli.calling import CONFLICT, COULD_NOT, USAGE, fail
from atoll_control.cli.configuration import FILE_FLAG, Configuration, ConfigurationError, resolve
from atoll_control.cli.output import Output, OutputOption
from atoll_control.cli.serve import print_settings, refuse
from atoll_control.cli.setting_flags import takes_settings
from atoll_control.server.logs import configure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from atoll_control.agent.settings import AgentSettings

AGENT_PLACES: Final = (
    "Every option may also stand in the environment (--label as ATOLL_AGENT_LABEL; --server, --token-file and --tls... "
    "as for other commands, ATOLL_SERVER) and in the file (label), which alone has the checks. `atollctl config agent` "
    "tells what holds, and why."
)
EPILOG: Final = (
    "Stop it with Ctrl-C or SIGTERM: it unregisters. Exit codes: 0 stopped, 1 it could not go on, 2 wrong usage, 4 "
    f"another agent has the state directory, or another process is this node now. {AGENT_PLACES} Example: atollctl "
    "agent --server 10.0.0.1:50051 --label zone=a"
)

AgentConfigOption = Annotated[
    Path | None,
    typer.Option(
        FILE_FLAG,
        metavar="FILE",
        help=f"A TOML file of settings and checks. Without it {AGENT_FILE_VARIABLE} names one, or else {AGENT_FILE} is "
        "read if it is there.",
    ),
]


@takes_settings(AgentOptions)
def agent(config: AgentConfigOption = None, **flags: object) -> None:
    """Makes this machine a node: registers it, sends heartbeats, and says how it is.

    The node's id is kept in the state directory, over restarts of the agent, of the machine and of the servers. Checks
    ([[check]] in the file) are commands whose exit code is the status of a condition.
    """
    configuration, settings = _resolved(config, flags)
    options = configuration.options
    configure(options.log_format)
    # Not for the commands that it starts.
    os.environ.pop(TOKEN_VARIABLE, None)
    directory = state_directory(options, os.environ)
    try:
        with StateDirectory(directory, node_id=options.node_id, forget_epoch=options.forget_epoch) as state:
            asyncio.run(run(settings, state))
    except (StateInUseError, PlaceTakenError) as error:
        fail(str(error), CONFLICT)
    except RegistrationRefusedError as error:
        fail(str(error), USAGE)
    except AgentError as error:
        fail(str(error), COULD_NOT)


@takes_settings(AgentOptions)
def show(config: AgentConfigOption = None, output: OutputOption = Output.TABLE, **flags: object) -> None:
    """Shows every setting of `atollctl agent`, its value, and where that comes from. Takes the flags of `agent`, too.

    Wrong settings and checks are refused here as they are by `agent`: a test before a restart.
    """
    configuration, _ = _resolved(config, flags)
    print_settings(configuration, output)


def _resolved(config: Path | None, flags: Mapping[str, object]) -> tuple[Configuration[AgentOptions], AgentSettings]:
    try:
        configuration = resolve(AgentOptions, flags, os.environ, config)
        return configuration, agent_settings(configuration, os.environ)
    except ConfigurationError as error:
        refuse(error)
