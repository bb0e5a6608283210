"""What an operator sees of a real `atollctl serve`: health checks, metrics, systemd, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.control.observing import OBSERVED, PATIENCE, Observed, get, parsed, wait_until

from atoll_control.api.demo.v1 import fault_pb2, fault_pb2_grpc
from atoll_control.api.v1 import (
    health_pb2,
    health_pb2_grpc,
    kv_pb2,
    kv_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
    task_pb2,
    task_pb2_grpc,
    watch_pb2,
    watch_pb2_grpc,
)
from atoll_control.server.metrics import METRICS, PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = [pytest.mark.once, pytest.mark.server_process]


def make_slow(channel: grpc.Channel, module: str, seconds: float, kind: Any = fault_pb2.SLOW_KIND_SLEEP) -> None:
    request = fault_pb2.SetSlowRequest(module=module, kind=kind)
    request.block.FromMilliseconds(int(seconds * 1000))
    fault_pb2_grpc.FaultServiceStub(channel).SetSlow(request, timeout=PATIENCE)


def list_nodes(channel: grpc.Channel) -> Any:
    return node_pb2_grpc.NodeServiceStub(channel).ListNodes.future(node_pb2.ListNodesRequest(), timeout=PATIENCE)


def runs(observed: Observed, handler: str) -> bool:
    """Whether a step of this handler runs now."""
    loops = json.loads(get(observed.observe, "/top")[1])["loops"]
    return any(loop["running"] is not None and loop["running"]["handler"] == handler for loop in loops)


# --------------------------------------------------------------------------------------------------- health checks


@pytest.mark.smoke
def test_a_server_that_serves_lives_and_is_ready(serve: Callable[..., Any]) -> None:
    observed = Observed(serve(*OBSERVED))
    assert get(observed.observe, "/livez")[0] == 200
    wait_until(lambda: get(observed.observe, "/readyz")[0] == 200)
    conditions = observed.conditions()
    assert {name: conditions[name] for name in ("leader", "recovery", "store")} == {
        "leader": (True, ""),
        "recovery": (True, ""),
        "store": (True, "memory"),
    }
    assert conditions["loops"][0]


def test_health_checks_and_metrics_are_answered_while_a_module_is_stuck(serve: Callable[..., Any]) -> None:
    server = serve(*OBSERVED, "--demo-controls", "--liveness-threshold", "1")
    observed = Observed(server)
    with grpc.insecure_channel(server.address) as channel:
        make_slow(channel, "NodeManager", 5.0)
        observed.wait_for_numbers(lambda numbers: ("node_manager",) in numbers.get("numbers_age_seconds", {}))
        stuck = [list_nodes(channel) for _ in range(8)]
        wait_until(lambda: "loop node_manager has made no progress" in get(observed.observe, "/livez")[1])
        assert get(observed.observe, "/metrics")[0] == 200
        # What it said last stays, and says how old it is; the others go on.
        observed.wait_for_numbers(
            lambda numbers: (
                numbers["numbers_age_seconds"]["node_manager",] > 3 > numbers["numbers_age_seconds"]["watch",]
            )
        )
        assert observed.numbers()["nodes"]["alive",] == 0
        for call in stuck:
            call.cancel()
    server.kill()


def test_the_native_checks_are_answered_while_the_gil_is_held(serve: Callable[..., Any]) -> None:
    server = serve(*OBSERVED, "--demo-controls")
    observed = Observed(server)
    with grpc.insecure_channel(server.address) as channel:
        make_slow(channel, "KvManager", 5.0, fault_pb2.SLOW_KIND_GIL)
        get_key = kv_pb2_grpc.KvServiceStub(channel).Get.future
        stuck = get_key(kv_pb2.GetRequest(namespace="n", key=b"k"), timeout=PATIENCE)
        wait_until(lambda: runs(observed, "KvService.Get"))
        assert get(observed.observe, "/livez")[0] == 200
        assert "build_info" in observed.numbers()
        assert runs(observed, "KvService.Get"), "and it has run all the while"
        stuck.cancel()
    server.kill()


def test_a_server_that_stops_is_not_ready_while_its_calls_end(serve: Callable[..., Any]) -> None:
    server = serve(*OBSERVED, "--demo-controls", "--grace", "60")
    observed = Observed(server)
    with grpc.insecure_channel(server.address) as channel:
        make_slow(channel, "NodeManager", 5.0)
        running = list_nodes(channel)
        wait_until(lambda: runs(observed, "NodeService.ListNodes"))
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: observed.conditions()["leader"] == (False, "the server stops"))
        assert get(observed.observe, "/readyz")[0] == 503
        assert get(observed.observe, "/livez")[0] == 200
        running.result()
    assert server.wait() == 0


def test_the_variable_that_observes_any_process_of_the_framework_observes_this_one_once(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ATOLL_OBSERVE", f"unix:{tmp_path}/{{pid}}.sock")
    server = serve()
    assert (tmp_path / f"{server.process.pid}.sock").is_socket()
    assert server.stop() == 0
    assert "error" not in {line["level"] for line in server.lines}


# ---------------------------------------------------------------------------------------------------------- metrics


def test_every_metric_is_exported_and_the_framework_s_beside_it(serve: Callable[..., Any]) -> None:
    observed = Observed(serve(*OBSERVED))
    observed.wait_for_numbers(lambda numbers: len(numbers.get("numbers_age_seconds", ())) == 4)
    numbers = observed.numbers()
    for metric in METRICS:
        name = metric.name + ("_count" if metric.kind == "histogram" else "")
        assert numbers[name], name
        assert all(len(labels) == len(metric.labels) for labels in numbers[name]), name
    assert {"atoll_loop_lag_seconds", "atoll_rpc_in_flight", "atoll_server_connections"} <= numbers.keys()
    native = parsed(get(observed.observe, "/metrics")[1])
    assert {"atoll_loop_lag_seconds", "atoll_server_connections"} <= native.keys()


def test_the_numbers_follow_what_happens(serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve(*OBSERVED, "--data-dir", str(tmp_path / "data"), "--max-kv-bytes", "1000000")
    observed = Observed(server)
    with grpc.insecure_channel(server.address) as channel:
        node_pb2_grpc.NodeServiceStub(channel).Register(
            node_pb2.RegisterRequest(node_id="a", incarnation=1), timeout=PATIENCE
        )
        kv_pb2_grpc.KvServiceStub(channel).Put(
            kv_pb2.PutRequest(namespace="n", key=b"key", value=b"value", overwrite=True), timeout=PATIENCE
        )
        health_pb2_grpc.HealthServiceStub(channel).Freeze(health_pb2.FreezeRequest(reason="a test"), timeout=PATIENCE)
        event = task_pb2.TaskEvent(job_id="j", task_id="t")
        task_pb2_grpc.TaskServiceStub(channel).AddTaskEvents(
            task_pb2.AddTaskEventsRequest(events=[event], dropped={"j": 3}), timeout=PATIENCE
        )
        stream = OpenWatch(channel)
        stream.wait_for_something()
        observed.wait_for_numbers(lambda numbers: numbers.get("nodes", {}).get(("alive",)) == 1)
        observed.wait_for_numbers(lambda numbers: numbers["watches_caught_up"][()] == 1)
        observed.wait_for_numbers(lambda numbers: numbers["brake_held"]["operator",] == 1)
        observed.wait_for_numbers(lambda numbers: numbers["task_attempts"][()] == 1)
        numbers = observed.numbers()
        stream.call.cancel()
    assert numbers["build_info"] == {(version("atoll"), "sqlite"): 1}
    assert numbers["brake_held"]["brake",] == 0
    assert numbers["kv_keys"][()] == 1
    assert 200 < numbers["kv_bytes"][()] < 400
    assert numbers["kv_limit_bytes"][()] == 1_000_000
    assert numbers["table_rows"]["nodes",] == 1
    assert numbers["store_revision"][()] == 2
    assert numbers["store_commit_seconds_count"][()] == 2
    assert numbers["store_commit_seconds_bucket"]["+Inf",] == 2
    assert 0 < numbers["store_commit_seconds_sum"][()] < PATIENCE
    assert (numbers["watch_streams"][()], numbers["watches"][()], numbers["watch_lag_revisions"][()]) == (1, 1, 0)
    assert numbers["tasks_dropped_total"] == {("here",): 0, ("senders",): 3}
    assert (numbers["is_leader"][()], numbers["epoch"][()]) == (1, 1)
    assert abs(numbers["start_time_seconds"][()] - time.time()) < 10 * PATIENCE


def test_the_docs_have_the_table_of_metrics() -> None:
    rows = re.findall(
        r"^\| `(atoll_control_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", (DOCS / "operating.md").read_text(), re.MULTILINE
    )
    assert rows == [
        (PREFIX + metric.name, metric.kind, ", ".join(f"`{label}`" for label in metric.labels) or "none", metric.help)
        for metric in METRICS
    ]


# ---------------------------------------------------------------------------------------------------------- systemd


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What listens at `NOTIFY_SOCKET`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def next_said(listening: socket.socket, *, but: str = "WATCHDOG=1") -> str:
    while (said := listening.recv(4096).decode()) == but:
        pass
    return said


def test_systemd_is_told_of_the_start_and_the_end_and_its_watchdog_is_fed(
    serve: Callable[..., Any], systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    server = serve()
    assert next_said(systemd) == "READY=1"
    assert next_said(systemd) == f"STATUS=serving at {server.address}"
    assert systemd.recv(4096) == b"WATCHDOG=1"
    server.process.send_signal(signal.SIGTERM)
    assert next_said(systemd) == "STOPPING=1"
    assert server.wait() == 0


def test_the_watchdog_is_not_fed_while_a_module_is_stuck(
    serve: Callable[..., Any], systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    server = serve("--demo-controls")
    with grpc.insecure_channel(server.address) as channel:
        make_slow(channel, "NodeManager", 5.0)
        stuck = list_nodes(channel)
        assert next_said(systemd) == "READY=1"
        assert next_said(systemd).startswith("STATUS=serving at ")
        assert next_said(systemd).startswith("STATUS=loop node_manager has made no progress for ")
        stuck.cancel()
    server.kill()


# ----------------------------------------------------------------------------------------------------------- the end


class OpenWatch:
    """A client that holds a watch open, and resumes it at once as often as it ends."""

    def __init__(self, channel: grpc.Channel, *, resumes: bool = False) -> None:
        self.channel = channel
        self.resumes = resumes
        self.seen = 0
        self.endings: list[tuple[grpc.StatusCode, str]] = []
        self.call = self._open()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _open(self) -> Any:
        self.closed = threading.Event()
        opening = watch_pb2.WatchRequest(open=watch_pb2.OpenWatch(kv=watch_pb2.KvSource(namespace="n", prefix=True)))
        closed = self.closed

        def requests() -> Iterator[watch_pb2.WatchRequest]:
            yield opening
            closed.wait()

        return watch_pb2_grpc.WatchServiceStub(self.channel).Watch(requests())

    def _read(self) -> None:
        while True:
            try:
                for _ in self.call:
                    self.seen += 1
            except grpc.RpcError as error:
                ended: Any = error
                self.endings.append((ended.code(), ended.details()))
            self.closed.set()
            if not self.resumes or self.endings[-1][0] is grpc.StatusCode.CANCELLED:
                return
            self.call = self._open()

    def wait_for_something(self) -> None:
        wait_until(lambda: self.seen > 0)


@pytest.mark.parametrize("resumes", [False, True])
def test_a_server_with_open_watches_ends_long_before_its_grace(serve: Callable[..., Any], *, resumes: bool) -> None:
    server = serve("--grace", "100")
    with grpc.insecure_channel(server.address) as channel:
        stream = OpenWatch(channel, resumes=resumes)
        stream.wait_for_something()
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 50
        wait_until(lambda: len(stream.endings) > 0)
        assert stream.endings[0] == (
            grpc.StatusCode.UNAVAILABLE,
            "the server stops: resume at another one, or when it is back",
        )
        stream.resumes = False
        stream.thread.join(PATIENCE)


def test_a_server_whose_loop_of_watches_is_stuck_ends_without_an_error(serve: Callable[..., Any]) -> None:
    server = serve(*OBSERVED, "--one-loop", "--demo-controls", "--grace", "3")
    observed = Observed(server)
    with grpc.insecure_channel(server.address) as channel:
        make_slow(channel, "NodeManager", 5.0)
        running = list_nodes(channel)
        wait_until(lambda: runs(observed, "NodeService.ListNodes"))
        assert server.stop() == 0
        running.exception()
    assert "Traceback" not in server.said()
