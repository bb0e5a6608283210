"""`atollctl agent` with a real `atollctl serve`, each in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.control.agents import (
    ALIVE,
    DEAD,
    DEADLINE,
    LEFT,
    TRUE,
    UNKNOWN,
    agent,
    conditions,
    free_address,
    nodes,
    server,
    wait_for_node,
)
from tests.control.commands import atollctl

from atoll_control.api.v1 import health_pb2, health_pb2_grpc
from atoll_control.testing.server_process import LoggedProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.once, pytest.mark.server_process, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def shared() -> Iterator[str]:
    """The address of a server that tests share whose nodes leave."""
    with server(address := free_address()):
        yield address


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.smoke
def test_an_agent_registers_its_machine_and_leaves_at_once_when_it_is_stopped(tmp_path: Path) -> None:
    address = free_address()
    with (
        server(address),
        agent(
            address,
            tmp_path / "state",
            *("--label", "zone=a", "--label", "rack=7", "--resource", "gpu=2", "--address", "127.0.0.1:7000"),
        ) as running,
    ):
        registered = running.wait_for("registered")
        (node,) = nodes(address)
        assert (node.node_id, node.incarnation) == (registered["node_id"], registered["incarnation"])
        assert (node.state, node.address, dict(node.labels)) == (ALIVE, "127.0.0.1:7000", {"zone": "a", "rack": "7"})
        assert node.host.cpus == os.cpu_count()
        assert node.host.name
        assert node.host.os
        assert node.host.architecture
        assert node.resources["gpu"] == 2
        assert 0 < node.resources["cpu"] <= node.host.cpus
        assert 0 < node.resources["memory"] <= node.host.memory_bytes
        assert running.stop() == 0
        (node,) = nodes(address)
        assert node.state == LEFT
        assert "was stopped" in node.state_reason


def test_an_agent_that_starts_again_is_the_same_node_under_a_higher_incarnation(shared: str, tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        with agent(shared, tmp_path) as running:
            seen.append(running.wait_for("registered"))
            assert running.stop() == 0
    assert seen[0]["node_id"] == seen[1]["node_id"]
    assert seen[0]["incarnation"] < seen[1]["incarnation"]


def test_a_second_agent_on_a_state_directory_is_refused_and_told_who_has_it(shared: str, tmp_path: Path) -> None:
    with agent(shared, tmp_path) as running:
        running.wait_for("agent_started")
        with agent(shared, tmp_path) as second:
            assert second.wait() == 4
            assert f"{tmp_path} is in use by the agent with process id {running.process.pid}" in second.said()
            assert "--state-dir" in second.said()
        assert running.stop() == 0


def test_an_agent_that_is_killed_is_found_dead(tmp_path: Path) -> None:
    address = free_address()
    with server(address), agent(address, tmp_path) as running:
        running.wait_for("registered")
        running.kill()
        node = wait_for_node(address, lambda node: node.state != ALIVE)
        assert node.state == DEAD
        assert node.state_reason


def test_a_node_that_was_declared_dead_registers_again_under_a_higher_incarnation(tmp_path: Path) -> None:
    address = free_address()
    with server(address), agent(address, tmp_path) as running:
        first = running.wait_for("registered")
        with grpc.insecure_channel(address) as channel:
            request = health_pb2.DeclareDeadRequest(node_id=first["node_id"], reason="a mistake")
            health_pb2_grpc.HealthServiceStub(channel).DeclareDead(request, timeout=DEADLINE)
        second = running.wait_for("registered", 2)
        assert second["incarnation"] > first["incarnation"]
        assert running.count("incarnation_ended") == 1
        wait_for_node(address, lambda node: node.state == ALIVE)


# ------------------------------------------------------------------------------------------------- servers that restart


CHECK = """
[[check]]
name = "DiskOk"
command = ["/bin/sh", "-c", "echo 30 % used"]
interval = 3600
"""


def test_a_server_that_has_forgotten_its_nodes_gets_the_node_and_its_conditions_again(tmp_path: Path) -> None:
    (file := tmp_path / "agent.toml").write_text(CHECK)
    address = free_address()
    with agent(address, tmp_path, "--config", str(file)) as running:
        with server(address) as first:
            registered = running.wait_for("registered")
            wait_for_node(address, lambda node: conditions(node) == {"DiskOk": (TRUE, "30 % used")})
            first.kill()
            running.wait_for("server_lost")
        with server(address):
            again = running.wait_for("registered", 2)
            assert again["incarnation"] > registered["incarnation"]
            (node,) = nodes(address)
            assert conditions(node) == {"DiskOk": (TRUE, "30 % used")}
            assert running.stop() == 0


def test_a_server_that_keeps_its_nodes_finds_the_same_member_after_a_restart(tmp_path: Path) -> None:
    address = free_address()
    keeps = ("--data-dir", str(tmp_path / "data"))
    with agent(address, tmp_path / "state") as running:
        with server(address, *keeps) as first:
            registered = running.wait_for("registered")
            first.kill()
            running.wait_for("server_lost")
        with server(address, *keeps):
            running.wait_for("server_back")
            (node,) = nodes(address)
            assert (node.state, node.incarnation) == (ALIVE, registered["incarnation"])
            assert running.count("registered") == 1
            assert running.stop() == 0


def test_a_server_that_was_stopped_for_longer_than_the_deadline_finds_the_same_member(tmp_path: Path) -> None:
    address = free_address()
    with server(address) as stopped, agent(address, tmp_path) as running:
        registered = running.wait_for("registered")
        stopped.pause()
        running.wait_for("server_lost")
        time.sleep(5)  # longer than its nodes' deadline
        stopped.resume()
        running.wait_for("server_back")
        (node,) = nodes(address)
        assert (node.state, node.incarnation) == (ALIVE, registered["incarnation"])


def test_an_agent_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    address = free_address()
    with agent(address, tmp_path) as running:
        running.wait_for("server_lost")
        with server(address):
            running.wait_for("registered")
            assert running.stop() == 0


def test_an_agent_whose_server_is_gone_ends_quickly_all_the_same(tmp_path: Path) -> None:
    address = free_address()
    with server(address) as gone, agent(address, tmp_path) as running:
        running.wait_for("registered")
        gone.kill()
        running.wait_for("server_lost")
        begin = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - begin < 20
        assert running.count("left_without_goodbye") == 1


# --------------------------------------------------------------------------------------------- two for one node


def test_an_agent_whose_state_was_copied_ends_when_the_copy_takes_its_place(tmp_path: Path) -> None:
    address = free_address()
    with server(address), agent(address, tmp_path / "a") as original:
        original.wait_for("registered")
        # What it is about to put in the place of its state may be gone before it is copied.
        shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("*.draft"))
        with agent(address, tmp_path / "b") as copy:
            copy.wait_for("registered")
            assert original.wait() == 4
            assert "another process" in original.said()
            assert str(tmp_path / "a") in original.said()
            assert copy.stop() == 0


def test_a_token_with_a_line_break_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    (file := tmp_path / "token").write_text("one\ntwo\n")
    with agent("127.0.0.1:1", tmp_path, "--token-file", str(file)) as refused:
        assert refused.wait() == 2
        assert "--token-file" in refused.said()


# --------------------------------------------------------------------------------------------------------- checks


def test_a_check_that_hangs_is_killed_with_what_it_has_started_and_delays_no_heartbeat(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    (file := tmp_path / "agent.toml").write_text(
        f"""
        [[check]]
        name = "Hangs"
        command = ["/bin/sh", "-c", "sleep 1000 & echo $$ $! >{pids}; sleep 1000"]
        interval = 3600
        timeout = 1
        """
        + CHECK
    )
    address = free_address()
    with server(address), agent(address, tmp_path / "state", "--config", str(file)) as running:
        registered = running.wait_for("registered")
        node = wait_for_node(address, lambda node: len(node.conditions) == 2)
        assert conditions(node) == {
            "DiskOk": (TRUE, "30 % used"),
            "Hangs": (UNKNOWN, "did not end within 1 s, and was killed"),
        }
        for pid in pids.read_text().split():
            give_up = time.monotonic() + DEADLINE
            while not is_gone(int(pid)):
                assert time.monotonic() < give_up
                time.sleep(0.05)
        (node,) = nodes(address)
        assert (node.state, node.incarnation) == (ALIVE, registered["incarnation"])
        listed = subprocess.run(
            [sys.executable, "-m", "atoll_control.cli", "nodes", "list", "--server", address],
            capture_output=True,
            text=True,
            check=True,
            timeout=DEADLINE,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert "DiskOk=True" in listed.stdout
        assert "Hangs=Unknown" in listed.stdout
        assert running.stop() == 0


def test_a_condition_that_changes_is_told_and_one_that_stays_is_not(tmp_path: Path) -> None:
    (flag := tmp_path / "full").touch()
    (file := tmp_path / "agent.toml").write_text(
        f"""
        [[check]]
        name = "DiskOk"
        command = ["/usr/bin/test", "!", "-e", "{flag}"]
        interval = 0.2
        """
    )
    address = free_address()
    with server(address), agent(address, tmp_path / "state", "--config", str(file)) as running:
        node = wait_for_node(address, lambda node: len(node.conditions) == 1)
        assert [it.name for it in node.conditions if it.status == TRUE] == []
        revision = node.revision
        time.sleep(1)  # five runs
        assert wait_for_node(address, lambda _: True).revision == revision
        flag.unlink()
        node = wait_for_node(address, lambda node: conditions(node)["DiskOk"][0] == TRUE)
        assert node.revision == revision + 1
        assert running.count("registered") == 1


def test_a_check_that_runs_when_the_agent_is_stopped_ends_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    (file := tmp_path / "agent.toml").write_text(
        f"""
        [[check]]
        name = "Slow"
        command = ["/bin/sh", "-c", "echo $$ >{pids}; exec sleep 1000"]
        timeout = 900
        """
    )
    with agent("127.0.0.1:1", tmp_path / "state", "--config", str(file)) as running:
        give_up = time.monotonic() + DEADLINE
        while not (pids.exists() and pids.read_text().strip()):
            assert time.monotonic() < give_up
            time.sleep(0.05)
        assert running.stop() == 0
        assert is_gone(int(pids.read_text()))


# -------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[check]]\nname = "A"', "check 1: command: is required"),
        ('[[check]]\nname = "A"\ncommand = "df"', "check 1: command: must be an array of texts"),
        ('[[check]]\nname = "A"\ncommand = ["df"]\ntimeout = 0', "check 1: timeout: must be at least 0.1 seconds"),
        ('[[check]]\nname = "A"\ncommand = ["df"]\nevery = 3', "check 1: every: a check has no such setting"),
        ('[[check]]\nname = "Suspect"\ncommand = ["df"]', "check 1: name: 'Suspect' is set by the server alone"),
        ('[[check]]\nname = "A"\ncommand = ["df"]\nfalse_codes = [0]', "check 1: false_codes: 0 is one of true_codes"),
        ('[[check]]\nname = "A"\ncommand = ["a"]\n' * 2, "check 2: name: 'A' is another check's already"),
        ("check = 3", "check: is written as [[check]]"),
        ('lable = ["zone=a"]', "there is no setting 'lable'; did you mean label?"),
        ('label = ["zone"]', "label: must be NAME=VALUE, for example zone=a"),
        ('resource = ["gpu=many"]', "resource: must be NAME=AMOUNT with a number from 0"),
    ],
)
def test_what_is_wrong_in_the_file_is_refused_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    (file := tmp_path / "agent.toml").write_text(text)
    refused = atollctl("agent", "--state-dir", str(tmp_path / "state"), "--config", str(file))
    assert refused.returncode == 2
    assert f"{file}: {problem}" in refused.stderr


def test_settings_come_from_the_environment_too_and_flags_go_before_it(shared: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "ATOLL_SERVER": shared,
        "STATE_DIRECTORY": str(tmp_path),
        "ATOLL_AGENT_LABEL": "zone=b",
        "ATOLL_AGENT_NODE_ID": "from-the-environment",
        "ATOLL_AGENT_LOG_FORMAT": "json",
    }
    with LoggedProcess("agent", "--label", "zone=a", environment=environment) as running:
        assert running.wait_for("registered")["node_id"] == "from-the-environment"
        (labels,) = [dict(node.labels) for node in nodes(shared) if node.node_id == "from-the-environment"]
        assert labels == {"zone": "a"}
        assert json.loads((tmp_path / "agent.json").read_text())["node_id"] == "from-the-environment"
        assert running.stop() == 0


def test_each_setting_is_shown_with_where_it_comes_from(tmp_path: Path) -> None:
    (file := tmp_path / "agent.toml").write_text('label = ["zone=a"]\naddress = "10.0.0.7:7000"\n' + CHECK)
    shown = atollctl(
        *("config", "agent", "-o", "json", "--config", str(file), "--address", "10.0.0.8:7000"),
        environment={"ATOLL_SERVER": "10.0.0.1:50051,10.0.0.2:50051"},
    )
    settings = {each["name"]: (each["value"], each["place"]) for each in json.loads(shown.stdout)}
    assert settings["server"] == (["10.0.0.1:50051", "10.0.0.2:50051"], "ATOLL_SERVER")
    assert settings["label"] == (["zone=a"], str(file))
    assert settings["address"] == ("10.0.0.8:7000", "--address")
    assert settings["log_format"] == ("console", "")
