"""Lists of `atollctl`: they go on from page to page, and say what they do not show."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from atoll_control.api.v1 import kv_pb2, kv_pb2_grpc, node_pb2, node_pb2_grpc, task_pb2, task_pb2_grpc
from atoll_control.cli import output
from atoll_control.cli.commands import app

if TYPE_CHECKING:
    from collections.abc import Callable

    Atollctl = functools.partial[Result]

pytestmark = pytest.mark.server_process

NAMES = ["a", "b", "c", "d", "e"]


def run(*arguments: str, address: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--server", address])


@pytest.fixture(scope="module")
def address(serve: Callable[..., Any]) -> str:
    # Nobody sends heartbeats here.
    address: str = serve("--heartbeat-interval", "20", "--dead-after", "3600").address
    with grpc.insecure_channel(address) as channel:
        nodes, kv = node_pb2_grpc.NodeServiceStub(channel), kv_pb2_grpc.KvServiceStub(channel)
        for name in NAMES:
            nodes.Register(node_pb2.RegisterRequest(node_id=name, incarnation=1), timeout=20)
            nodes.Unregister(node_pb2.UnregisterRequest(node_id=name, incarnation=1), timeout=20)
            kv.Put(kv_pb2.PutRequest(namespace=name, key=b"k"), timeout=20)
            kv.Put(kv_pb2.PutRequest(key=name.encode()), timeout=20)
        add_events(channel, [task_pb2.TaskEvent(job_id=name, task_id=name) for name in NAMES], dropped={"a": 7})
    return address


@pytest.fixture
def atollctl(address: str, monkeypatch: pytest.MonkeyPatch) -> Atollctl:
    monkeypatch.setattr(output, "PAGE", 2)
    return functools.partial(run, address=address)


def add_events(channel: grpc.Channel, events: list[task_pb2.TaskEvent], dropped: dict[str, int] | None = None) -> None:
    request = task_pb2.AddTaskEventsRequest(events=events, dropped=dropped)
    task_pb2_grpc.TaskServiceStub(channel).AddTaskEvents(request, timeout=60)


def named(result: Result) -> list[str]:
    """What a list has, by name."""
    (listed, *others) = json.loads(result.stdout)
    if "namespaces" in listed:
        assert not others
        names: list[str] = listed["namespaces"]
        return names
    return [item.get("node", item).get("node_id") or item.get("job_id") or item["key"] for item in [listed, *others]]


LISTS = {
    "nodes list": (NAMES, "raise --limit"),
    "nodes endings": (NAMES[::-1], "name a node, or raise --limit"),
    "kv list": (["YQ==", "Yg==", "Yw==", "ZA==", "ZQ=="], "name a longer prefix, or raise --limit"),
    "kv namespaces": (["", *NAMES], "raise --limit"),
    "tasks list": (NAMES[::-1], "filter, or raise --limit"),
    "tasks jobs": (NAMES, "raise --limit"),
}


@pytest.mark.parametrize("command", LISTS)
def test_a_list_goes_on_from_page_to_page_to_its_end(atollctl: Atollctl, command: str) -> None:
    result = atollctl(*command.split(), "-o", "json")
    assert named(result) == LISTS[command][0]
    assert "there are more" not in result.stderr


@pytest.mark.parametrize("command", LISTS)
def test_a_list_that_is_cut_says_so_with_the_remedy(atollctl: Atollctl, command: str) -> None:
    names, remedy = LISTS[command]
    result = atollctl(*command.split(), "-o", "json", "--limit", "3")
    assert named(result) == names[:3]
    assert f"atollctl: there are more: {remedy} 3\n" in result.stderr


def test_lists_of_tasks_say_that_something_was_dropped(atollctl: Atollctl) -> None:
    assert "7 attempts or events were dropped: the list may be incomplete" in atollctl("tasks", "list").stderr
    assert "7 attempts or events were dropped: the counts may be incomplete" in atollctl("tasks", "summary", "a").stderr
    assert atollctl("tasks", "summary", "b").stderr == ""


def test_a_task_with_more_attempts_than_an_answer_holds_says_how_to_see_them(
    serve: Callable[..., Any], atollctl: Atollctl
) -> None:
    address = serve().address
    with grpc.insecure_channel(address) as channel:
        events = [task_pb2.TaskEvent(job_id="a", task_id="a task", attempt=attempt) for attempt in range(1001)]
        add_events(channel, events)
    remedy = "atollctl tasks list --filter 'task_id=a task' --limit 100000"
    told = run("tasks", "show", "a task", address=address).stderr
    assert told == f"atollctl: there are more: see them with: {remedy}\n"
    assert atollctl("tasks", "show", "b").stderr == ""


def test_jobs_that_were_forgotten_are_told_with_what_was_dropped_of_them(serve: Callable[..., Any]) -> None:
    address = serve().address
    with grpc.insecure_channel(address) as channel:
        add_events(channel, [task_pb2.TaskEvent(job_id="first", task_id="t")], dropped={"first": 7})
        for start in (0, 5_000):
            events = [task_pb2.TaskEvent(job_id=f"{number:05}", task_id="t") for number in range(start, start + 5_000)]
            add_events(channel, events)
    told = run("tasks", "jobs", "--limit", "1", "--timeout", "60", address=address).stderr
    assert told.splitlines() == [
        "atollctl: there are more: raise --limit 1",
        "atollctl: jobs forgotten to make room for others: 1; dropped of them here: 1, by senders: 7",
    ]
