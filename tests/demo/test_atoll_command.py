"""The command `atoll`, and what the demo's nodes say of their machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from atoll_control.demo.facts import host_facts


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def atoll(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atoll.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_alone_or_asked_for_help_the_command_lists_what_there_is(arguments: tuple[str, ...]) -> None:
    result = atoll(*arguments)
    assert result.returncode == 0
    assert "  demo    Shows that a slow module does not delay the others' calls." in result.stdout


def test_an_unknown_command_is_wrong_usage() -> None:
    result = atoll("dance")
    message = "atoll: there is no command 'dance'; there is: check, demo, demo-ha, top\n"
    assert (result.returncode, result.stderr) == (2, message)


def test_the_demos_help_states_the_criterion_and_the_exit_codes() -> None:
    result = atoll("demo", "--help")
    assert result.returncode == 0
    text = " ".join(result.stdout.split())
    assert "99 of 100 heartbeats were answered within half of the time that it blocks (and within 100 ms)" in text
    assert "130: stopped" in text


@pytest.mark.parametrize("missing", ["grpc", "rich", "typer"])
def test_a_missing_extra_gets_one_line_with_the_remedy(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['atoll', 'demo']; "
    result = run(program + "from atoll.cli import main; main()")
    assert result.returncode == 1
    assert result.stderr == f'atoll demo: {missing} is missing; install it with: pip install "atoll[control]"\n'


def test_the_command_itself_imports_nothing_of_the_control_plane() -> None:
    program = (
        "import sys, atoll.cli, atoll.cli._check; print([name for name in sys.modules if 'atoll_control' in name])"
    )
    assert run(program).stdout == "[]\n"


def test_the_facts_of_a_machine_are_its_own() -> None:
    facts = host_facts()
    assert facts.name
    assert facts.cpus == os.cpu_count()
    assert facts.memory_bytes > 64 << 20
    assert facts.os == {"linux": "linux", "darwin": "darwin"}[sys.platform]
    assert facts.architecture
