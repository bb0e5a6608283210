"""Child processes: their lines, their failures and their end."""

import contextlib
import os
import time
from pathlib import Path

import pytest
from benchmarks.processes import Child, ChildFailedError, UnavailableError

ECHOES = """
import json, os, sys
print(json.dumps({"port": 1, "pid": os.getpid()}), flush=True)
for line in sys.stdin:
    print("noise that a library prints", flush=True)
    print(json.dumps({"asked": line.strip()}), flush=True)
"""
DEAF = """
import json, os, time
print(json.dumps({"port": 1, "pid": os.getpid()}), flush=True)
time.sleep(60)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "child_program.py"


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_a_child_announces_itself_and_answers_in_lines_of_json(program: Path) -> None:
    program.write_text(ECHOES, encoding="utf-8")
    with Child("child_program") as child:
        assert child.announcement["port"] == 1
        assert child.ask("cpu") == {"asked": "cpu"}
        assert child.ask("again") == {"asked": "again"}


def test_leaving_the_block_ends_the_child(program: Path) -> None:
    program.write_text(ECHOES, encoding="utf-8")
    with Child("child_program") as child:
        pid = child.announcement["pid"]
        assert is_alive(pid)
    assert not is_alive(pid)


def test_a_child_that_ignores_the_end_of_its_input_is_killed(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.processes._STOP_TIMEOUT", 0.1)
    program.write_text(DEAF, encoding="utf-8")
    started = time.monotonic()
    with Child("child_program") as child:
        pid = child.announcement["pid"]
    assert not is_alive(pid)
    assert time.monotonic() - started < 30


def test_a_child_that_fails_shows_its_stderr(program: Path) -> None:
    program.write_text("raise SystemExit('no port is free')", encoding="utf-8")
    with pytest.raises(ChildFailedError, match="ended with exit code 1: no port is free"), Child("child_program"):
        pass


def test_a_child_that_crashes_without_a_word_shows_by_which_signal(program: Path) -> None:
    program.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", encoding="utf-8")
    with pytest.raises(ChildFailedError, match="was killed by SIGKILL: its stderr is empty"), Child("child_program"):
        pass


def test_a_silent_child_is_given_up(program: Path) -> None:
    program.write_text("import sys; sys.stdin.read()", encoding="utf-8")
    with pytest.raises(ChildFailedError, match="said nothing in time"), Child("child_program", start_timeout=0.2):
        pass


def test_what_is_not_installed_is_told_apart_from_a_failure(program: Path) -> None:
    program.write_text("""print('{"unavailable": "No module named rloop"}')""", encoding="utf-8")
    with pytest.raises(UnavailableError, match="No module named rloop"), Child("child_program"):
        pass


def test_a_child_answers_only_while_it_runs() -> None:
    with pytest.raises(RuntimeError, match="enter it first"):
        Child("child_program").ask("cpu")
