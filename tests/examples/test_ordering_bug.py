"""The example's claims: no run without delays shows its bug, one seed shows it each time, the fix survives all."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from examples.ordering_bug.scenario import run_in_virtual_time
from examples.ordering_bug.sessions import FixedSessions, Sessions

ROOT = Path(__file__).parents[2]
SEED = 42


@pytest.fixture(autouse=True)
def no_other_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATOLL_TESTING_DELAY_US", raising=False)


@pytest.mark.parametrize("sessions_class", [Sessions, FixedSessions])
def test_without_delays_two_hundred_runs_pass(sessions_class: type[Sessions]) -> None:
    assert all(run_in_virtual_time(sessions_class=sessions_class) for _ in range(200))


def test_the_documented_seed_shows_the_bug_each_time() -> None:
    assert [run_in_virtual_time(SEED) for _ in range(10)] == [False] * 10


def test_few_seeds_show_the_bug_and_each_run_of_a_seed_ends_alike() -> None:
    outcomes = [run_in_virtual_time(seed) for seed in range(100)]
    assert [seed for seed, kept in enumerate(outcomes) if not kept] == [SEED, 52, 73]
    assert outcomes == [run_in_virtual_time(seed) for seed in range(100)]


def test_the_fixed_version_survives_a_hundred_seeds_and_the_documented_one() -> None:
    assert all(run_in_virtual_time(seed, sessions_class=FixedSessions) for seed in range(100))


def test_longer_delays_break_the_bug_far_more_often_and_the_fix_never() -> None:
    lost = [seed for seed in range(100) if not run_in_virtual_time(seed, delays="*=0:4000")]
    assert len(lost) > 10
    assert all(run_in_virtual_time(seed, sessions_class=FixedSessions, delays="*=0:4000") for seed in lost)


def _commands() -> list[tuple[str, str]]:
    """The commands of the README and what it says that they print."""
    text = (ROOT / "examples" / "ordering_bug" / "README.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    parts = [part.partition("\n") for block in blocks for part in block.split("$ ")[1:]]
    return [(command, printed) for command, _, printed in parts]


@pytest.mark.once
@pytest.mark.parametrize(("command", "printed"), _commands())
def test_the_readmes_commands_print_what_it_says(command: str, printed: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "python"
    whole = [sys.executable, *arguments]
    ran = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stderr == ""
    if "--threads" not in command:  # where timing decides
        assert ran.stdout == printed
        assert ran.returncode == ("LOST" in printed or "lose the session:" in printed)
    else:
        assert re.fullmatch(r"\d+ of 10 runs lose the session\n", ran.stdout)
