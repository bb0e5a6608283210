"""Runs `atollctl` in this process, where a command is what is tested, and not how its process starts and ends."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from typer.testing import CliRunner

from atoll_control.cli.commands import app

if TYPE_CHECKING:
    from collections.abc import Mapping


def atollctl(
    *arguments: str, text: str | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """How a command ended, as of a process with these variables besides and `text` on its standard input."""
    ended = CliRunner().invoke(app, arguments, input=text, env=environment, prog_name="atollctl")
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return subprocess.CompletedProcess(list(arguments), ended.exit_code, ended.stdout, ended.stderr)
