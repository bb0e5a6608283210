"""`examples/agent`: its checks run, and its settings are those of the agent."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.control.agents import FALSE, TRUE, UNKNOWN

from atoll_control.agent.check_process import CheckProcess
from atoll_control.agent.settings import CheckSettings
from atoll_control.cli.agent_options import AgentOptions, agent_settings
from atoll_control.cli.configuration import resolve

if TYPE_CHECKING:
    from atoll_control.agent.check_process import Outcome

EXAMPLES = Path(__file__).parents[2] / "examples" / "agent"


def run(*command: Any) -> Outcome:
    words = tuple(str(word) for word in command)
    return asyncio.run(CheckProcess(CheckSettings(name="A", command=words, timeout=30.0)).outcome())


def test_the_file_is_one_of_the_agents_and_its_checks_are_there() -> None:
    settings = agent_settings(resolve(AgentOptions, {}, {}, EXAMPLES / "agent.toml"), {})
    assert [check.name for check in settings.checks] == ["DiskOk", "GpuHealthy"]
    for check in settings.checks:
        assert (EXAMPLES / Path(check.command[0]).name).stat().st_mode & 0o111


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    # Of what the unit starts only that it is there is looked at.
    (unit := tmp_path / "atoll-agent.service").write_text(
        (EXAMPLES / "atoll-agent.service").read_text().replace("/opt/atoll/bin/atollctl", "/bin/true")
    )
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert str(unit.name) not in checked.stderr, checked.stderr


def test_a_disk_is_fine_until_it_is_too_full(tmp_path: Path) -> None:
    outcome = run(EXAMPLES / "disk-space", tmp_path, "101")
    assert outcome.status == TRUE
    assert outcome.reason.startswith(f"{tmp_path} is ")
    assert run(EXAMPLES / "disk-space", tmp_path, "0").status == FALSE
    assert run(EXAMPLES / "disk-space", tmp_path / "nowhere").status == UNKNOWN


def gpus(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Puts a program in the place of nvidia-smi."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


TWO = "echo '0, NVIDIA H100, 0'; echo '1, NVIDIA H100, [N/A]'"


@pytest.mark.parametrize(
    ("script", "arguments", "status", "reason"),
    [
        (TWO, ["2"], TRUE, "2 GPUs answer: NVIDIA H100"),
        (TWO, ["3"], FALSE, "2 of 3 GPUs answer"),
        ("echo '0, NVIDIA H100, 5'", [], FALSE, "GPU 0 has 5 uncorrectable memory errors;"),
        ("echo GPU is lost; exit 15", [], FALSE, "nvidia-smi ended with 15: GPU is lost"),
        ("echo no driver; exit 9", [], UNKNOWN, "nvidia-smi ended with 9: no driver"),
    ],
)
def test_gpus_are_healthy_when_all_answer_without_errors(  # noqa: PLR0917 - what pytest passes
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, arguments: list[str], status: int, reason: str
) -> None:
    gpus(tmp_path, monkeypatch, script)
    outcome = run(EXAMPLES / "nvidia-gpu", *arguments)
    assert (outcome.status, outcome.reason) == (status, reason)


def test_without_a_driver_it_is_not_known_how_gpus_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for tool in ("sh", "awk", "head"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = run(EXAMPLES / "nvidia-gpu")
    assert outcome.status == UNKNOWN
    assert "no NVIDIA driver" in outcome.reason
