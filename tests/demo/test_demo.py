"""`atoll demo`, run small and whole, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.interpreters import SERVER_PYTHON

pytestmark = pytest.mark.once

DEMO = [sys.executable, "-m", "atoll.cli", "demo"]
SMALL = ["--nodes", "10", "--seconds", "4", "--processes", "2"]


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, *arguments], capture_output=True, text=True, timeout=100, check=False)


def run_for_json(*arguments: str) -> tuple[dict[str, Any], int, str]:
    completed = run_demo(*SMALL, "--json", "-", *arguments)
    assert completed.stdout, completed.stderr
    return json.loads(completed.stdout), completed.returncode, completed.stderr


def failed_checks(result: dict[str, Any]) -> list[str]:
    return [check["name"] for check in result["checks"] if not check["passed"]]


@pytest.mark.alone
@pytest.mark.demo
@pytest.mark.whole_grpcio
@pytest.mark.parametrize("kind", ["sleep", "cpu"])
def test_heartbeats_stay_unaffected_while_the_store_is_slow(kind: str, tmp_path: Path) -> None:
    result, exit_code, shown = run_for_json("--slow-kind", kind)
    assert failed_checks(result) == [], shown
    assert exit_code == result["exit_code"] == 0
    assert result["nodes_alive"] == 10
    assert result["store"]["slow"]["p50"] > 0.1
    assert "Heartbeats stayed unaffected while KvManager was slow, and all 10 nodes stayed alive." in shown
    assert list(tmp_path.glob("*.log")) == []
    assert "KvManager's handler was named while it kept its loop: KvService." in shown
    stalls = [stall for stall in result["stalls"] if stall["handler"].startswith("KvService.")]
    assert {stall["loop"] for stall in stalls} == {"kv_manager"}
    if sys.platform == "linux":
        assert any("faults.py" in stall["stack"] for stall in stalls)
        assert "the innermost frame first:\n  File" in shown
    loops = {loop["name"]: loop for loop in result["loops"]}
    handlers = {handler["name"]: handler for handler in loops["kv_manager"]["handlers"]}
    assert handlers["KvService.Put"]["execution_time"]["max"] >= 0.2
    assert "HealthService.Heartbeat" in {handler["name"] for handler in loops["health"]["handlers"]}


@pytest.mark.alone
@pytest.mark.demo
@pytest.mark.whole_grpcio
def test_a_call_that_keeps_the_gil_is_reported_for_what_it_is() -> None:
    result, exit_code, shown = run_for_json("--slow-kind", "gil")
    assert result["nodes_alive"] == 10
    assert result["registered_again"] == 0
    if result["gil_enabled"]:
        assert failed_checks(result) == ["99 of 100 heartbeats are in time"], shown
        assert exit_code == 1
        assert "loops can't isolate that: heartbeats were delayed by it; every node stayed alive" in shown
    else:
        assert (failed_checks(result), exit_code) == ([], 0)


@pytest.mark.demo
@pytest.mark.whole_grpcio
@pytest.mark.parametrize(
    ("arguments", "remark"),
    [
        (["--slow-module", "HealthMonitor"], "HealthMonitor itself was slow"),
        (["--one-loop"], "All modules shared one loop"),
    ],
)
def test_the_demo_fails_when_heartbeats_are_affected(arguments: list[str], remark: str, tmp_path: Path) -> None:
    result, exit_code, shown = run_for_json(*arguments)
    assert "99 of 100 heartbeats are in time" in failed_checks(result)
    assert exit_code == result["exit_code"] == 1
    assert remark in shown
    assert "Heartbeats did NOT stay unaffected" in shown
    (log,) = tmp_path.glob("*.log")
    assert "server_started" in log.read_text()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that runs already, with the arguments of the test's parameter."""
    serve = ["serve", "--listen", "127.0.0.1:0", "--log-format", "json", *request.param]
    process = subprocess.Popen(
        [SERVER_PYTHON, "-m", "atoll_control.cli", *serve],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if '"server_started"' in line:
            break
    yield json.loads(line)["address"]
    process.terminate()
    process.communicate(timeout=20)


@pytest.mark.alone
@pytest.mark.demo
@pytest.mark.server_process
@pytest.mark.parametrize("server", [()], indirect=True)
def test_the_demo_joins_a_running_server_and_says_so_when_nothing_can_be_made_slow(server: str) -> None:
    result, exit_code, shown = run_for_json("--server", server)
    assert failed_checks(result) == [], shown
    assert exit_code == 0
    assert result["slow_module"] is None
    assert "the server has no demo controls" in shown
    assert "The run was healthy; all 10 nodes stayed alive." in shown


@pytest.mark.alone
@pytest.mark.demo
@pytest.mark.server_process
@pytest.mark.skipif(sys.executable == SERVER_PYTHON, reason="the demo's own server is of this interpreter, too")
@pytest.mark.parametrize("server", [("--demo-controls",)], indirect=True)
@pytest.mark.parametrize("kind", ["cpu", "gil"])
def test_a_free_threaded_server_keeps_every_node_alive_whatever_one_module_does(server: str, kind: str) -> None:
    result, _, shown = run_for_json("--server", server, "--slow-kind", kind)
    assert not result["gil_enabled"]
    assert (result["nodes_alive"], result["registered_again"]) == (10, 0), shown
    # A garbage collection stops all threads, and waits for a C call that never looks whether it should stop.
    excused = {"99 of 100 heartbeats are in time"} if kind == "gil" else set()
    assert set(failed_checks(result)) <= excused, shown


@pytest.mark.demo
@pytest.mark.whole_grpcio
def test_a_server_that_is_not_there_gets_one_line_and_exit_code_1() -> None:
    completed = run_demo("--server", "127.0.0.1:1", *SMALL)
    assert completed.returncode == 1
    assert completed.stderr.startswith("atoll demo: no server answers at 127.0.0.1:1: ")
    assert completed.stderr.count("\n") == 1


def children(parent: int) -> list[int]:
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid, ppid in (line.split() for line in listing.splitlines()) if int(ppid) == parent]


def running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


@pytest.mark.demo
@pytest.mark.whole_grpcio
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_demo(signal_number: signal.Signals) -> None:
    with subprocess.Popen(
        [*DEMO, "--nodes", "10", "--seconds", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "undisturbed;" in line:
                break
        pids = children(demo.pid)
        assert len(pids) == 5
        demo.send_signal(signal_number)
        _, complaint = demo.communicate(timeout=30)
    if signal_number == signal.SIGKILL:
        assert demo.returncode == -signal.SIGKILL
    else:
        assert (demo.returncode, complaint) == (130, "atoll demo: stopped\n")
    deadline = time.monotonic() + 15
    while any(running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in pids if running(pid)] == []


@pytest.mark.demo
@pytest.mark.whole_grpcio
def test_the_demo_fails_when_its_server_is_killed() -> None:
    with subprocess.Popen(
        [*DEMO, "--nodes", "10", "--seconds", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "undisturbed;" in line:
                break
        (server,) = [pid for pid in children(demo.pid) if "serve" in command(pid)]
        os.kill(server, signal.SIGKILL)
        _, complaint = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert complaint.startswith("atoll demo: the server ")


def command(pid: int) -> str:
    return subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout


@pytest.mark.smoke
@pytest.mark.whole_grpcio
def test_the_result_can_be_written_to_a_file(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    completed = run_demo("--nodes", "2", "--processes", "1", "--seconds", "2", "--json", str(target))
    result = json.loads(target.read_text())
    assert result["exit_code"] == completed.returncode
    assert result["settings"]["nodes"] == 2
    assert "Per loop and per handler" in completed.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--server", "nowhere"], r"atoll demo: --server: must be HOST:PORT, got 'nowhere'\n"),
        (["--server", "a:1", "--one-loop"], r"atoll demo: --one-loop and --network-threads are for a server .*\n"),
        (["--slow-kind", "lazy"], r"(?s).*Invalid value for '--slow-kind'.*"),
        (["--nodes", "0"], r"(?s).*Invalid value for '--nodes'.*"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], message: str) -> None:
    completed = run_demo(*arguments)
    assert completed.returncode == 2
    assert re.fullmatch(message, completed.stderr)
