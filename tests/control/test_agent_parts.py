"""The parts of the agent by themselves: its state, what it tells of conditions, and one run of a check."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.control.agents import FALSE, TRUE, UNKNOWN

from atoll_control.agent.check_process import KEPT_OUTPUT_BYTES, MAX_OUTPUT_BYTES, MAX_REASON_BYTES, CheckProcess
from atoll_control.agent.conditions import REASON_PERIOD, Conditions
from atoll_control.agent.errors import StateError, StateInUseError
from atoll_control.agent.settings import MAX_CHECKS, AgentSettings, CheckSettings
from atoll_control.agent.state import BLOCK, FILE, StateDirectory
from atoll_control.api.v1 import node_pb2
from atoll_control.cli.agent_options import AgentOptions, agent_settings
from atoll_control.cli.configuration import ConfigurationError, resolve
from atoll_control.server.node_manager import MAX_CONDITIONS

if TYPE_CHECKING:
    from pathlib import Path

    from atoll_control.agent.check_process import Outcome


# ----------------------------------------------------------------------------------------------------------- state


def kept(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / FILE).read_text())
    return found


def test_an_incarnation_is_on_the_disk_before_it_is_used_and_higher_than_all_before(tmp_path: Path) -> None:
    used = 0
    for _ in range(3):
        with StateDirectory(tmp_path) as state:
            for _ in range(3):
                incarnation = state.next_incarnation()
                assert incarnation > used
                assert kept(tmp_path)["incarnation"] >= incarnation
                used = incarnation


def test_a_clock_that_was_set_back_does_not_lower_incarnations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StateDirectory(tmp_path) as state:
        used = state.next_incarnation()
    monkeypatch.setattr(time, "time_ns", lambda: 5)
    with StateDirectory(tmp_path) as state:
        assert state.next_incarnation() > used


def test_registering_again_writes_only_when_a_block_of_incarnations_is_used_up(tmp_path: Path) -> None:
    with StateDirectory(tmp_path) as state:
        first = state.next_incarnation()
        before = kept(tmp_path)
        for _ in range(BLOCK):
            assert not state.needs_write()
            state.next_incarnation()
        assert kept(tmp_path) == before
        assert state.needs_write()
        assert state.next_incarnation() == first + BLOCK + 1
        assert kept(tmp_path)["incarnation"] > before["incarnation"]
        assert state.next_incarnation(above=first + 10 * BLOCK) == first + 10 * BLOCK + 1


def test_an_incarnation_that_can_not_be_written_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StateDirectory(tmp_path) as state:
        first = state.next_incarnation()

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                state.next_incarnation(above=first + 10 * BLOCK)
        assert state.next_incarnation() == first + 1


def test_the_highest_epoch_is_kept_unless_it_is_to_be_forgotten(tmp_path: Path) -> None:
    with StateDirectory(tmp_path) as state:
        state.note_epoch(7)
        state.note_epoch(5)
    with StateDirectory(tmp_path) as state:
        assert state.epoch == 7
    with StateDirectory(tmp_path, forget_epoch=True) as state:
        assert state.epoch == 0


def test_a_directory_has_one_holder_at_a_time(tmp_path: Path) -> None:
    with (
        StateDirectory(tmp_path),
        pytest.raises(StateInUseError, match=f"process id {os.getpid()}, running since"),
        StateDirectory(tmp_path),
    ):
        raise AssertionError
    with StateDirectory(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"node_id": "a b", "incarnation": 1, "epoch": 1}', "\x00" * 10])
def test_a_damaged_file_is_refused_with_the_way_out(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    for _ in range(2):  # and the lock is given back
        with pytest.raises(StateError, match=r"is damaged.*or delete it"), StateDirectory(tmp_path):
            raise AssertionError


def test_another_node_id_than_the_directory_has_is_refused_naming_both(tmp_path: Path) -> None:
    with StateDirectory(tmp_path, node_id="a"):
        pass
    with StateDirectory(tmp_path) as state:
        assert state.node_id == "a"
    with pytest.raises(StateError, match="node 'a', and --node-id says 'b'"), StateDirectory(tmp_path, node_id="b"):
        raise AssertionError


def test_a_directory_that_can_not_be_made_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="--state-dir"), StateDirectory(tmp_path / "file" / "state"):
        raise AssertionError


# ------------------------------------------------------------------------------------------------------ conditions


def condition(name: str, status: Any = TRUE, reason: str = "") -> node_pb2.Condition:
    return node_pb2.Condition(name=name, status=status, reason=reason)


def test_a_condition_is_due_until_it_was_told_and_again_when_its_status_changes() -> None:
    conditions = Conditions()
    assert conditions.set(condition("A"))
    assert conditions.due(0.0) == [condition("A")]
    conditions.told(conditions.due(0.0), 0.0)
    assert not conditions.set(condition("A"))
    assert conditions.due(1.0) == []
    assert conditions.next_due(1.0) is None
    assert conditions.set(condition("A", FALSE))
    assert conditions.due(1.0) == [condition("A", FALSE)]


def test_a_reason_that_keeps_changing_is_told_now_and_then() -> None:
    conditions = Conditions()
    conditions.set(condition("A", TRUE, "81 %"))
    conditions.told(conditions.all(), 0.0)
    conditions.set(condition("A", TRUE, "82 %"))
    assert conditions.due(1.0) == []
    assert conditions.next_due(1.0) == REASON_PERIOD
    assert conditions.due(REASON_PERIOD) == [condition("A", TRUE, "82 %")]


def test_a_condition_that_changes_while_it_is_told_is_due_again() -> None:
    conditions = Conditions()
    conditions.set(condition("A"))
    sent = conditions.due(0.0)
    conditions.set(condition("A", FALSE))
    conditions.told(sent, 0.0)
    assert conditions.due(0.0) == [condition("A", FALSE)]


def test_all_conditions_are_due_for_a_server_that_may_not_know_them() -> None:
    conditions = Conditions()
    conditions.set(condition("A"))
    conditions.told(conditions.all(), 0.0)
    conditions.forget_told()
    assert conditions.due(0.0) == [condition("A")]


# ---------------------------------------------------------------------------------------------------------- checks


def test_there_may_be_as_many_checks_as_the_server_keeps_conditions(tmp_path: Path) -> None:
    def settings(count: int) -> AgentSettings:
        checks = (f'[[check]]\nname = "C{number}"\ncommand = ["true"]\n' for number in range(count))
        (file := tmp_path / "agent.toml").write_text("".join(checks))
        return agent_settings(resolve(AgentOptions, {}, {}, file), {})

    assert MAX_CHECKS == MAX_CONDITIONS
    assert len(settings(MAX_CHECKS).checks) == MAX_CHECKS
    with pytest.raises(ConfigurationError, match=f"there may be {MAX_CHECKS} at most"):
        settings(MAX_CHECKS + 1)


def run(*command: str, **settings: Any) -> Outcome:
    check = CheckSettings(name="A", command=command, **{"timeout": 30.0, **settings})
    return asyncio.run(CheckProcess(check).outcome())


def shell(script: str, **settings: Any) -> Outcome:
    return run("/bin/sh", "-c", script, **settings)


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        ("echo fine; echo more", TRUE, "fine"),
        ("echo full; exit 1", FALSE, "full"),
        ("exit 1", FALSE, "exit code 1"),
        ("echo odd; exit 3", UNKNOWN, "odd"),
        ("echo said on standard error >&2; exit 2", UNKNOWN, "said on standard error"),
        ("echo; printf ' a\\tb \\n'", TRUE, "a b"),
        ("kill -9 $$", UNKNOWN, "was ended by SIGKILL"),
    ],
)
def test_the_exit_code_is_the_status_and_the_first_line_the_reason(script: str, status: int, reason: str) -> None:
    outcome = shell(script)
    assert (outcome.status, outcome.reason) == (status, reason)


def test_a_check_may_say_what_its_exit_codes_mean() -> None:
    settings: dict[str, Any] = {"true_codes": frozenset({0, 1}), "false_codes": frozenset({2})}
    assert [shell(f"exit {code}", **settings).status for code in range(4)] == [TRUE, TRUE, FALSE, UNKNOWN]


def test_a_program_that_is_not_there_makes_the_condition_unknown() -> None:
    outcome = run("/not/there")
    assert outcome.status == UNKNOWN
    assert outcome.reason.startswith("/not/there can't be run: ")


def test_words_of_a_command_are_passed_on_as_they_are() -> None:
    assert run("/bin/echo", "$HOME; exit 1 'a\"b").reason == "$HOME; exit 1 'a\"b"


def test_of_what_a_command_prints_a_bounded_part_is_kept() -> None:
    outcome = shell(f"head -c {KEPT_OUTPUT_BYTES * 10} /dev/zero | tr '\\0' x")
    assert (outcome.status, outcome.reason) == (TRUE, "x" * MAX_REASON_BYTES)


def test_a_command_that_does_not_stop_printing_is_killed() -> None:
    begin = time.monotonic()
    outcome = shell("yes", timeout=60.0)
    assert (outcome.status, outcome.reason) == (
        UNKNOWN,
        f"printed more than {MAX_OUTPUT_BYTES:,} bytes, and was killed",
    )
    assert time.monotonic() - begin < 30


def test_what_a_command_leaves_behind_with_its_output_is_killed_and_not_waited_for(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    outcome = shell(f"sleep 1000 & echo $! >{pid}; echo fine")
    assert (outcome.status, outcome.reason) == (TRUE, "fine")
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        try:
            os.kill(int(pid.read_text()), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("it still runs")


def test_a_command_that_hangs_silently_with_its_output_closed_is_killed() -> None:
    outcome = shell("exec >&- 2>&-; exec sleep 1000", timeout=0.5)
    assert (outcome.status, outcome.reason) == (UNKNOWN, "did not end within 0.5 s, and was killed")


def test_a_command_gets_the_environment_without_what_is_the_agents_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_TOKEN", "secret")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    monkeypatch.setenv("GREETING", "hello")
    assert shell('echo "$GREETING$ATOLL_TOKEN$NOTIFY_SOCKET"').reason == "hello"
