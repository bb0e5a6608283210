"""docs/testing.md tells the truth: its files and commands, pasted into an empty folder in their order, work."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

pytest.importorskip("grpc_tools")

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
# A file that a line such as "`service.py`:" announces, or commands and what they print.
BLOCK = re.compile(
    r"^`(?P<name>[\w.]+)`[^\n]*:\n\n```\w+\n(?P<code>.*?)^```$|^```console\n(?P<console>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


def _steps() -> Iterator[tuple[str, str]]:
    """(file, its text), or ("$ " and a command, what it prints)."""
    for found in BLOCK.finditer(PAGE.read_text()):
        if found["name"]:
            yield found["name"], found["code"]
            continue
        for command in found["console"].split("$ ")[1:]:
            line, _, printed = command.partition("\n")
            yield f"$ {line}", printed


def _run(command: str, folder: Path) -> str:
    program, *arguments = shlex.split(command)
    if program == "pytest":
        # Hypothesis has nothing to do there, and its import takes a second.
        arguments = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *arguments]
    else:
        assert program == "python", f"a command that this test does not know how to run: {command}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ATOLL_TESTING_")}
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    return ran.stdout + ran.stderr


def test_what_the_page_shows_works_when_pasted_in_its_order(tmp_path: Path) -> None:
    commands = []
    for what, expected in _steps():
        if not what.startswith("$ "):
            (tmp_path / what).write_text(expected)
            continue
        command = what.removeprefix("$ ")
        if command.startswith("pip install"):
            continue  # this environment has it
        commands.append(command)
        output = _run(command, tmp_path)
        for line in expected.splitlines():
            assert line in output, f"{command} does not print {line!r}:\n{output}"
        if not expected:
            assert output == "", command
    assert len(commands) == 8


def test_each_python_block_of_the_page_is_run() -> None:
    text = PAGE.read_text()
    assert len(re.findall(r"^```(?!$)", text, flags=re.MULTILINE)) == len(list(BLOCK.finditer(text)))
