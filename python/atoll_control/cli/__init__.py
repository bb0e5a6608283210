"""The command `atollctl`, for operators."""

from __future__ import annotations

import sys

INSTALL = 'pip install "atoll[control]"'

# What shells report for a program that Ctrl-C ended; here, before it had begun.
STOPPED = 130


def main() -> None:
    """Runs `atollctl`."""
    try:
        # It needs what only the extra installs.
        from atoll_control.cli.client_commands import COMMANDS, GROUPS, app  # noqa: PLC0415

        command = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
        if command not in COMMANDS and command not in GROUPS:
            # To import a server takes longer than to ask one.
            import atoll_control.cli.commands  # noqa: F401, PLC0415 - adds the others to the app
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {"atoll", "atoll_control"}:
            raise
        sys.exit(f"atollctl: {missing} is missing; install the control plane with: {INSTALL}")
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    app(prog_name="atollctl")
