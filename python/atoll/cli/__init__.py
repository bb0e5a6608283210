"""The command `atoll`, for authors of services.

Commands live where their code belongs and are found by name when they are called: `atoll` itself imports nothing of the
control plane, and a command whose extra is not installed says so in one line.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """Where a command is and what it needs.

    Attributes:
        module: the module that has the command as a function of the same name.
        extra: what to install for it; None for a command that needs nothing, whose function takes the arguments and
            returns the exit code, where those of the others are typer's.
        help: one line.
    """

    module: str
    extra: str | None
    help: str


COMMANDS = {
    "check": Command(
        "atoll.cli._check",
        None,
        "Checks a policy, and shows which module lives on which loop.",
    ),
    "demo": Command(
        "atoll_control.demo.command",
        "control",
        "Shows that a slow module does not delay the others' calls.",
    ),
    "demo-ha": Command(
        "atoll_control.demo.failover_command",
        "control",
        "Shows that another server takes over when the leader goes, and that nothing is lost.",
    ),
    "top": Command(
        "atoll.cli.top._command",
        "top",
        "Shows what the loops of a running process are doing, and where they are stuck.",
    ),
}

_OWN = {"atoll", "atoll_control"}

# What shells report for a program that Ctrl-C ended; here, before the command had begun.
STOPPED = 130


def main() -> None:
    """Runs `atoll`."""
    arguments = sys.argv[1:]
    name = arguments[0] if arguments else "--help"
    if name in {"-h", "--help"}:
        sys.stdout.write(_overview())
        return
    if name == "--version":
        from importlib.metadata import version  # noqa: PLC0415 - costs time that other commands need not pay

        sys.stdout.write(f"atoll {version('atoll')}\n")
        return
    command = COMMANDS.get(name)
    if command is None:
        sys.stderr.write(f"atoll: there is no command {name!r}; there is: {', '.join(COMMANDS)}\n")
        sys.exit(2)
    try:
        function = getattr(importlib.import_module(command.module), name.replace("-", "_"))
        if command.extra is None:
            sys.exit(function(arguments[1:]))
        typer = importlib.import_module("typer")
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _OWN:
            raise
        sys.exit(f'atoll {name}: {missing} is missing; install it with: pip install "atoll[{command.extra}]"')
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command()(function)
    app(args=arguments[1:], prog_name=f"atoll {name}")


def _overview() -> str:
    lines = ["Usage: atoll COMMAND [OPTIONS]", "", "For authors of services built with Atoll.", "", "Commands:"]
    lines += [f"  {name:<8}{command.help}" for name, command in COMMANDS.items()]
    lines += ["", "`atoll COMMAND --help` tells more. `atollctl` is for operators of the control plane.", ""]
    return "\n".join(lines)
