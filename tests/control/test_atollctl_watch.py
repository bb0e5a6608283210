"""`atollctl watch` and `topics`, the outputs that commands share, and several servers."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.control import commands
from tests.control.between import proxy, standby

from atoll_control.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.once, pytest.mark.server_process]

COMMAND = [sys.executable, "-m", "atoll_control.cli"]


@pytest.fixture(scope="module")
def address(serve: Callable[..., Any]) -> str:
    found: str = serve("--heartbeat-interval", "20", "--dead-after", "3600").address
    with Client(found, timeout=30) as client:
        client.nodes.register("a", 1)
        for number in range(3):
            client.kv.put(f"jobs/{number}", f"value {number}")
            client.topics.publish("deploys", f"event {number}", key=f"k{number % 2}")
    return found


def run(address: str, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return commands.atollctl(*arguments, "--server", address, text=text)


def lines_of(done: subprocess.CompletedProcess[str]) -> list[Any]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.smoke
def test_keys_are_watched_for_people(address: str) -> None:
    command = [*COMMAND, "watch", "kv", "jobs/", "--once", "--server", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["EVENT", "REVISION", "KEY", "VALUE"]
    assert [row[0] for row in rows[1:]] == ["there", "there", "there", "complete"]
    assert rows[1][2:] == ["jobs/0", "value", "0"]
    assert done.stderr.startswith("atollctl: to go on from here: --after ")


def test_a_watch_for_programs_has_a_line_per_event_and_goes_on_where_it_ended(address: str) -> None:
    first = lines_of(run(address, "watch", "kv", "--once", "--exact", "jobs/1", "-o", "json"))
    assert [event["event"] for event in first] == ["there", "complete"]
    assert first[0]["item"]["key"] == "am9icy8x"
    position = first[1]["position"]
    with Client(address, timeout=30) as client:
        client.kv.put("jobs/1", "changed")
        client.kv.delete("jobs/1")
    later = lines_of(run(address, "watch", "kv", "jobs/", "--once", "--previous", "--after", position, "-o", "json"))
    assert [event["event"] for event in later] == ["changed", "deleted"]
    assert later[1]["previous"]["value"] == later[0]["item"]["value"]
    assert later[1]["position"] != position


def test_a_watch_follows_until_it_has_printed_enough(address: str) -> None:
    command = [*COMMAND, "watch", "kv", "limits/", "--limit", "2", "-o", "json", "--server", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["event"] == "complete"
        with Client(address, timeout=30) as client:
            for number in range(3):
                client.kv.put(f"limits/{number}", "")
        out, err = watching.communicate(timeout=60)
    assert watching.returncode == 0, err
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["changed", "changed"]


def test_ctrl_c_is_how_a_watch_ends(address: str) -> None:
    command = [*COMMAND, "watch", "nodes", "-o", "yaml", "--server", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "---\n"
        while "complete" not in watching.stdout.readline():
            pass
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=60)
    assert watching.returncode == 0
    assert "Traceback" not in err
    assert "--after" in err


def test_nodes_and_topics_are_watched(address: str) -> None:
    (node, _) = lines_of(run(address, "watch", "nodes", "--once", "-o", "json"))
    assert node["item"]["node_id"] == "a"
    assert "alive" in run(address, "watch", "nodes", "a", "--once").stdout
    events = lines_of(run(address, "watch", "topic", "deploys", "--once", "-o", "json"))
    assert [event["event"] for event in events] == ["event"] * 3
    keyed = run(address, "watch", "topic", "deploys", "--key", "k0", "--from-oldest", "--limit", "2")
    assert [line.split()[-1] for line in keyed.stdout.splitlines()[1:]] == ["0", "2"]
    rest = lines_of(run(address, "watch", "topic", "deploys", "--after", events[1]["position"], "--once", "-o", "json"))
    assert rest == events[2:]


def test_events_are_published_and_topics_listed(address: str) -> None:
    done = run(address, "topics", "publish", "news", text="from standard input")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["published", "news", "position", "1:1"]
    assert run(address, "topics", "publish", "news", "text", "--file", __file__).returncode == 2
    listed = json.loads(run(address, "topics", "list", "-o", "json").stdout)
    assert [topic["name"] for topic in listed] == ["deploys", "news"]
    assert run(address, "topics", "list").stdout.splitlines()[2].split()[:2] == ["news", "1"]


def still(value: Any) -> Any:
    """What was told, without how long things have lasted by then."""
    if isinstance(value, dict):
        return {name: still(each) for name, each in value.items()}
    if isinstance(value, list):
        return [still(each) for each in value]
    return "a time" if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?s", value) else value


@pytest.mark.parametrize(
    "command",
    [
        *(["kv", "list"], ["kv", "get", "jobs/0"], ["nodes", "list"], ["nodes", "show", "a"], ["status"]),
        *(["health", "show"], ["tasks", "jobs"], ["topics", "list"]),
    ],
)
def test_yaml_says_what_json_says(address: str, command: list[str]) -> None:
    as_json, as_yaml = (run(address, *command, "-o", kind) for kind in ("json", "yaml"))
    assert as_yaml.returncode == 0, as_yaml.stderr
    assert still(yaml.safe_load(as_yaml.stdout)) == still(json.loads(as_json.stdout))


def test_what_is_no_position_is_wrong_usage(address: str) -> None:
    for arguments in (
        ["kv", "--after", "here"],
        ["topic", "t", "--after", "a:b"],
        ["topic", "t", "--after", "1:1", "--from-oldest"],
    ):
        done = run(address, "watch", *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith("atollctl: --after")


def test_of_several_servers_the_one_that_leads_is_found(address: str) -> None:
    with standby() as other, standby(address) as third:
        for server in (f"127.0.0.1:1,{other.address},{address}", third.address):
            assert run(server, "kv", "get", "jobs/0", "--raw").stdout == "value 0"
            assert run(server, "watch", "kv", "jobs/0", "--once").returncode == 0
        assert run(address, "kv", "put", "jobs/9", "x", "--server", other.address).returncode == 0
        gone = run(f"127.0.0.1:1,{other.address}", "kv", "put", "jobs/9", "x", "--timeout", "0.5")
        assert gone.returncode == 5
        assert other.address in gone.stderr


def test_a_change_of_which_nobody_knows_whether_it_was_done_is_no_server_that_was_not_reached(address: str) -> None:
    with proxy(address) as between:
        between.loses_answer_to = b"a value that is lost"
        done = run(between.address, "kv", "put", "lost/1", "a value that is lost")
    assert (done.returncode, "whether it was done is not known" in done.stderr) == (1, True)


def test_a_server_that_is_no_address_is_wrong_usage() -> None:
    done = run("nonsense", "status")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("atollctl: --server: each must be HOST:PORT")


def test_a_watch_of_a_server_that_is_not_there_ends_and_one_that_went_is_waited_for(address: str) -> None:
    assert run("127.0.0.1:1", "watch", "kv", "jobs/").returncode == 5
    with proxy(address) as between:
        command = [*COMMAND, "watch", "kv", "away/", "--limit", "1", "--timeout", "1", "--server", between.address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            assert watching.stderr is not None
            while not watching.stdout.readline().startswith("complete"):
                pass
            between.refuses = True
            between.cut()
            said = watching.stderr.readline()
            between.refuses = False
            with Client(address, timeout=30) as client:
                client.kv.put("away/1", "v")
            assert watching.wait(60) == 0
            assert "Waiting for it" in said
            assert "away/1" in watching.stdout.read()
