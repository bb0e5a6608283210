"""What `atollctl` does with a running server: what it prints, and how it ends."""

from __future__ import annotations

import errno
import functools
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import typer
from tests.control import commands

import atoll.store
from atoll_control.api.v1 import node_pb2, node_pb2_grpc, task_pb2, task_pb2_grpc
from atoll_control.cli.store import backup

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.once, pytest.mark.server_process]


def run(*arguments: str, address: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return commands.atollctl(*arguments, "--server", address, text=text)


@pytest.fixture(scope="module")
def atollctl(serve: Callable[..., Any]) -> functools.partial[subprocess.CompletedProcess[str]]:
    # Nobody sends heartbeats here.
    address = serve("--heartbeat-interval", "20", "--dead-after", "3600").address
    with grpc.insecure_channel(address) as channel:
        conditions = [node_pb2.Condition(name="DiskFull", status=node_pb2.CONDITION_STATUS_FALSE)]
        for node_id in ("a", "b"):
            request = node_pb2.RegisterRequest(
                node_id=node_id, incarnation=1, labels={"zone": node_id}, conditions=conditions
            )
            node_pb2_grpc.NodeServiceStub(channel).Register(request, timeout=20)

    return functools.partial(run, address=address)


@pytest.fixture
def address(atollctl: functools.partial[subprocess.CompletedProcess[str]]) -> str:
    found: str = atollctl.keywords["address"]
    return found


@pytest.mark.smoke
def test_the_command_puts_and_gets_in_processes_of_its_own(address: str) -> None:
    def process(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "atoll_control.cli", *arguments, "--server", address]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, input=text)

    put = process("kv", "put", "smoke", text="from standard input")
    assert (put.returncode, put.stderr) == (0, "")
    got = process("kv", "get", "smoke", "--raw")
    assert (got.returncode, got.stdout, got.stderr) == (0, "from standard input", "")


def test_keys_are_put_got_listed_and_deleted(atollctl: functools.partial[subprocess.CompletedProcess[str]]) -> None:
    assert atollctl("kv", "put", "jobs/1", "one").returncode == 0
    assert atollctl("kv", "put", "jobs/2", text="from standard input").returncode == 0
    assert atollctl("kv", "get", "jobs/2", "--raw").stdout == "from standard input"
    got = json.loads(atollctl("kv", "get", "jobs/1", "-o", "json").stdout)
    assert got["version"] == "1"
    listed = json.loads(atollctl("kv", "list", "jobs/", "-o", "json").stdout)
    assert len(listed) == 2
    table = atollctl("kv", "list", "jobs/", "--values").stdout.splitlines()
    assert table[0].split() == ["KEY", "REVISION", "VERSION", "BYTES", "VALUE"]
    assert table[1].split()[0] == "jobs/1"
    deleted = atollctl("kv", "delete", "jobs/", "--prefix")
    assert "2" in deleted.stdout.splitlines()[0]


@pytest.mark.parametrize("ttl", ["-1", "0", "nan", "inf", "1e30"])
def test_a_time_to_live_that_is_none_is_wrong_usage(ttl: str) -> None:
    refused = run("kv", "put", "k", "v", f"--ttl={ttl}", address="127.0.0.1:1")
    assert refused.returncode == 2
    assert refused.stderr == (
        f"atollctl: --ttl: must be a number of seconds above 0 and not beyond the server's limit, got {float(ttl):g}\n"
    )


def test_a_time_to_live_that_the_server_does_not_allow_is_wrong_usage(
    atollctl: functools.partial[subprocess.CompletedProcess[str]],
) -> None:
    refused = atollctl("kv", "put", "k", "v", "--ttl", "31536001")
    assert refused.returncode == 2
    assert "ttl: must be at most 31,536,000 s" in refused.stderr


def test_exit_codes_say_what_was_the_matter(atollctl: functools.partial[subprocess.CompletedProcess[str]]) -> None:
    missing = atollctl("kv", "get", "missing")
    assert (missing.returncode, missing.stderr) == (3, "atollctl: namespace '' has no key b'missing'\n")
    atollctl("kv", "put", "there", "1")
    taken = atollctl("kv", "put", "there", "2", "--create")
    assert taken.returncode == 4
    assert "it has revision" in taken.stderr
    assert atollctl("kv", "get", "").returncode == 2
    assert atollctl("nodes", "list", "--state", "asleep").returncode == 2
    assert atollctl("nodes", "show", "nobody").returncode == 3


def test_a_server_that_is_not_there_is_told_with_what_to_do() -> None:
    told = run("status", "--timeout", "5", address="127.0.0.1:1")
    assert told.returncode == 5
    assert "is the server running there?" in told.stderr


def test_nodes_are_listed_filtered_shown_explained_and_drained(
    atollctl: functools.partial[subprocess.CompletedProcess[str]],
) -> None:
    assert [node["node_id"] for node in json.loads(atollctl("nodes", "list", "-o", "json").stdout)] == ["a", "b"]
    filtered = atollctl("nodes", "list", "--label", "zone=b", "--condition", "DiskFull=false", "-o", "json")
    assert [node["node_id"] for node in json.loads(filtered.stdout)] == ["b"]
    assert "condition DiskFull" in atollctl("nodes", "show", "a").stdout
    explained = atollctl("nodes", "explain", "a").stdout
    assert "dead in" in explained
    assert "draining" in atollctl("nodes", "drain", "a", "--reason", "kernel").stdout
    assert "draining" in atollctl("nodes", "list").stdout
    assert "draining" not in atollctl("nodes", "undrain", "a").stdout


def test_an_operator_declares_a_node_dead_and_the_history_keeps_why(
    atollctl: functools.partial[subprocess.CompletedProcess[str]],
) -> None:
    assert atollctl("nodes", "declare-dead", "b", "--reason", "it burnt").returncode == 0
    endings = json.loads(atollctl("nodes", "endings", "-o", "json").stdout)
    assert "it burnt" in endings[0]["node"]["state_reason"]


def test_verdicts_are_frozen_and_resumed(atollctl: functools.partial[subprocess.CompletedProcess[str]]) -> None:
    frozen = json.loads(atollctl("health", "freeze", "--reason", "maintenance", "-o", "json").stdout)
    assert "maintenance" in frozen["held"]
    resumed = json.loads(atollctl("health", "resume", "-o", "json").stdout)
    assert "maintenance" not in resumed["held"]
    assert json.loads(atollctl("health", "show", "-o", "json").stdout)["nodes"] == resumed["nodes"]


def test_a_backup_is_taken_through_the_server_and_checked(
    atollctl: functools.partial[subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    path = tmp_path / "backup.db"
    taken = atollctl("backup", str(path))
    assert taken.returncode == 0, taken.stderr
    assert "checked" in taken.stdout
    assert atollctl("backup", str(path)).returncode == 1
    sound = commands.atollctl("doctor", str(path))
    assert (sound.returncode, sound.stdout.splitlines()[-1]) == (0, "it is sound")


def test_a_backup_replaces_no_file_that_appears_while_it_is_taken(
    atollctl: functools.partial[subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, draft_of_another = tmp_path / "backup.db", tmp_path / "backup.db.partial"
    draft_of_another.write_text("half of another backup")
    check = atoll.store.check

    def appear(draft: Path) -> atoll.store.StoreReport:
        path.write_text("precious")
        return check(draft)

    monkeypatch.setattr(atoll.store, "check", appear)
    with pytest.raises(typer.Exit):
        backup(path, server=atollctl.keywords["address"], timeout=60)
    assert "is there already" in capsys.readouterr().err
    assert (path.read_text(), draft_of_another.read_text()) == ("precious", "half of another backup")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_backup_is_for_its_owner_alone(address: str, tmp_path: Path) -> None:
    backup(tmp_path / "backup.db", server=[address], timeout=60)
    assert stat.S_IMODE((tmp_path / "backup.db").stat().st_mode) == 0o600


def test_a_finished_backup_stays_when_its_name_can_not_be_made_durable(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, fsync = tmp_path / "backup.db", os.fsync

    def of_a_file_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_a_file_only)
    with pytest.raises(typer.Exit):
        backup(path, server=[address], timeout=60)
    assert f"{path} is whole, but a loss of power may take its name" in capsys.readouterr().err
    assert not atoll.store.check(path).problems


def test_a_server_that_sends_no_backup_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods: dict[str, Any] = {"Backup": grpc.unary_stream_rpc_method_handler(lambda _request, _context: iter(()))}
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("atoll.v1.AdminService", methods),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with pytest.raises(typer.Exit):
        backup(tmp_path / "backup.db", server=[address], timeout=60)
    server.stop(None).wait()
    assert capsys.readouterr().err.startswith("atollctl: the server sent nothing and called it a backup")
    assert list(tmp_path.iterdir()) == []


def test_the_status_says_what_the_server_is(atollctl: functools.partial[subprocess.CompletedProcess[str]]) -> None:
    told = json.loads(atollctl("status", "-o", "json").stdout)
    assert (told["engine"], told["role"]) == ("memory", "SERVER_ROLE_LEADER")
    assert told["leader_address"] == atollctl.keywords["address"]


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.com:0"])
def test_a_server_does_not_listen_beyond_loopback_unless_it_is_told_to(listen: str) -> None:
    refused = commands.atollctl("serve", "--listen", listen)
    assert refused.returncode == 2
    assert "--insecure-beyond-loopback" in refused.stderr


def test_tasks_are_listed_filtered_shown_and_counted(
    atollctl: functools.partial[subprocess.CompletedProcess[str]],
) -> None:
    address = atollctl.keywords["address"]
    states = (("t1", task_pb2.TASK_STATE_RUNNING), ("t2", task_pb2.TASK_STATE_FAILED))
    with grpc.insecure_channel(address) as channel:
        request = task_pb2.AddTaskEventsRequest()
        for task_id, state in states:
            event = request.events.add(job_id="j", task_id=task_id, state=state, name="f")
            event.time.FromSeconds(1_700_000_000)
        task_pb2_grpc.TaskServiceStub(channel).AddTaskEvents(request, timeout=20)
    failed = json.loads(atollctl("tasks", "list", "-f", "state=failed", "-o", "json").stdout)
    assert [attempt["task_id"] for attempt in failed] == ["t2"]
    others = json.loads(atollctl("tasks", "list", "-f", "state!=failed", "-o", "json").stdout)
    assert [attempt["task_id"] for attempt in others] == ["t1"]
    assert atollctl("tasks", "list", "-f", "nonsense").returncode == 2
    unknown = atollctl("tasks", "list", "-f", "colour=red")
    assert unknown.returncode == 2
    assert "colour" in unknown.stderr
    assert "running" in atollctl("tasks", "show", "t1").stdout
    assert "failed=1 running=1" in atollctl("tasks", "summary", "j").stdout
    assert atollctl("tasks", "jobs").stdout.splitlines()[1].split() == ["j", "2", "0", "0", "false"]
