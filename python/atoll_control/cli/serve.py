"""`atollctl serve` and `atollctl config show`: the server, and what it would be told."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

from atoll.errors import BindError, StoreError
from atoll_control.cli.calling import EXIT_CODES, USAGE, fail
from atoll_control.cli.configuration import Configuration, ConfigurationError, Source, resolve, settings_of
from atoll_control.cli.output import Output, OutputOption, print_data, print_table
from atoll_control.cli.serve_options import ServeOptions, server_settings
from atoll_control.cli.setting_flags import PLACES, ConfigOption, takes_settings
from atoll_control.server.app import serve as run_server
from atoll_control.server.logs import configure
from atoll_control.server.security import SecuritySettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from atoll_control.cli.configuration import Origin
    from atoll_control.server.settings import ServerSettings

OBSERVE_VARIABLE: Final = "ATOLL_OBSERVE"

config_app = typer.Typer(help="Shows settings, and where each comes from.", no_args_is_help=True, epilog=EXIT_CODES)


@takes_settings(ServeOptions)
def serve(config: ConfigOption = None, **flags: object) -> None:
    """Serves the control plane.

    Membership (atoll.v1.NodeService, HealthService), the key-value store (KvService, LeaseService), watches and topics
    (WatchService, TopicService), task events (TaskService), what operators need (AdminService), and who may do what
    (TokenService).

    Modules live on loops of their own, so a slow one does not delay the others. Any gRPC client in any language can
    connect; the protos are in the package, under atoll_control/api/protos.
    """
    configuration, settings = _resolved(config, flags)
    configure(configuration.options.log_format)
    # The setting has it by now; the provider of the loops would serve it a second time.
    os.environ.pop(OBSERVE_VARIABLE, None)
    try:
        asyncio.run(run_server(settings))
    except (BindError, SecuritySettingsError, StoreError) as error:
        fail(str(error))


@config_app.command(epilog=f"{PLACES} {EXIT_CODES}")
@takes_settings(ServeOptions)
def show(config: ConfigOption = None, output: OutputOption = Output.TABLE, **flags: object) -> None:
    """Shows every setting of `atollctl serve`, its value, and where that comes from. Takes the flags of `serve`, too.

    Wrong settings are refused here as they are by `serve`: a check before a restart.
    """
    configuration, _ = _resolved(config, flags)
    print_settings(configuration, output)


def print_settings(configuration: Configuration[Any], output: Output) -> None:
    """Prints what is set, and where that comes from."""
    shown = [
        (declared.name, _shown(getattr(configuration.options, name)), configuration.origins[name])
        for name, declared in settings_of(type(configuration.options)).items()
        if not declared.extras.flag_only
    ]
    if output is not Output.TABLE:
        print_data(
            output,
            [
                {"name": name, "value": value, "source": origin.source.value, "place": origin.place}
                for name, value, origin in shown
            ],
        )
        return
    print_table(("SETTING", "VALUE", "FROM"), [(name, _text(value), _origin(origin)) for name, value, origin in shown])


def _resolved(config: Path | None, flags: Mapping[str, object]) -> tuple[Configuration[ServeOptions], ServerSettings]:
    try:
        configuration = resolve(ServeOptions, flags, os.environ, config)
        return configuration, server_settings(configuration)
    except ConfigurationError as error:
        refuse(error)


def refuse(error: ConfigurationError) -> NoReturn:
    """Ends the command with all that is wrong."""
    *others, last = error.problems
    for problem in others:
        typer.echo(f"atollctl: {problem}", err=True)
    fail(last, USAGE)


def _shown(value: Any) -> Any:  # noqa: ANN401 - any setting's
    """A value as JSON has it."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return list(value) if isinstance(value, tuple) else str(value)


def _text(value: Any) -> str:  # noqa: ANN401 - any setting's
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _origin(origin: Origin) -> str:
    return "default" if origin.source is Source.DEFAULT else origin.place
