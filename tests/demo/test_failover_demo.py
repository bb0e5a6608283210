"""`atoll demo-ha`."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from tests.etcd import program

from atoll_control.demo.failover import Change, FailoverError, Outcome, run

COMMAND = [sys.executable, "-c", "import sys; from atoll.cli import main; sys.argv[0] = 'atoll'; main()", "demo-ha"]


@pytest.mark.once
@pytest.mark.demo
@pytest.mark.alone
@pytest.mark.whole_grpcio
@pytest.mark.timeout(300)
def test_it_runs_to_its_end_and_finds_nothing_wrong() -> None:
    told: list[str] = []
    outcome = run(program(), 2, 1, told.append)
    assert outcome.problems == []
    assert (outcome.changes[0].how, len(outcome.changes)) == ("killed", 1)
    assert outcome.watched >= outcome.writes > 0
    assert outcome.reads
    assert any("was killed" in line for line in told)


def test_what_was_lost_or_took_too_long_is_not_held() -> None:
    change = Change("killed", 2.0, 7)
    assert Outcome(changes=[change]).held
    assert not Outcome(changes=[change], problems=["a write is lost"]).held
    assert not Outcome(changes=[change, Change("paused", 5.1, 9)]).held


def test_an_etcd_that_does_not_start_ends_the_demo_with_its_log() -> None:
    with pytest.raises(FailoverError, match="did not start"):
        run(str(shutil.which("false")), 2, 1, print)


@pytest.mark.parametrize(("etcd", "says"), [("nowhere/etcd", "at nowhere/etcd"), (__file__, "--etcd PATH")])
def test_without_an_etcd_it_says_how_to_get_one(etcd: str, says: str) -> None:
    ended = subprocess.run([*COMMAND, "--etcd", etcd], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "apt install etcd-server" in ended.stderr
