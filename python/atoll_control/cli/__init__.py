"""The command `atollctl`, for operators."""

from __future__ import annotations

import sys

INSTALL = 'pip install "atoll[control]"'

# What shells report for a program that Ctrl-C ended; here, before it had begun.
STOPPED = 130


def main() -> None:
    """Runs `atollctl`."""
    try:
        from atoll_control.cli.commands import app  # noqa: PLC0415 - needs what only the extra installs
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {"atoll", "atoll_control"}:
            raise
        sys.exit(f"atollctl: {missing} is missing; install the control plane with: {INSTALL}")
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    app(prog_name="atollctl")
