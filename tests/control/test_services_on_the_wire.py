"""The services as a stock grpcio client sees them: served by `atollctl serve`, in another process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from atoll_control.api.demo.v1 import fault_pb2, fault_pb2_grpc
from atoll_control.api.v1 import (
    health_pb2,
    health_pb2_grpc,
    kv_pb2,
    kv_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
    watch_pb2,
    watch_pb2_grpc,
)

pytestmark = pytest.mark.server_process
TIMEOUT = 10.0


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    return serve("--demo-controls", "--heartbeat-interval", "0.2", "--dead-after", "1.2")


@pytest.fixture(scope="module")
def channel(server: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def status(call: Callable[..., Any], request: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=TIMEOUT)
    error: Any = caught.value
    return error.code().name, error.details()


def test_a_node_registers_beats_is_listed_and_leaves(channel: grpc.Channel) -> None:
    nodes = node_pb2_grpc.NodeServiceStub(channel)
    host = node_pb2.Host(name="box", cpus=2)
    reply = nodes.Register(node_pb2.RegisterRequest(node_id="wire", incarnation=1, host=host), timeout=TIMEOUT)
    assert 0 < reply.heartbeat_interval.nanos <= 200_000_000
    health = health_pb2_grpc.HealthServiceStub(channel)
    beat = health.Heartbeat(health_pb2.HeartbeatRequest(node_id="wire", incarnation=1), timeout=TIMEOUT)
    assert (beat.server_id, beat.epoch) == (reply.server_id, reply.epoch)
    assert 160_000_000 <= beat.heartbeat_interval.nanos <= 200_000_000
    listed = nodes.ListNodes(node_pb2.ListNodesRequest(start_after="wir"), timeout=TIMEOUT).nodes[0]
    assert (listed.node_id, listed.host, listed.state) == ("wire", host, node_pb2.NODE_STATE_ALIVE)
    left = nodes.Unregister(node_pb2.UnregisterRequest(node_id="wire", incarnation=1), timeout=TIMEOUT)
    assert left.node.state == node_pb2.NODE_STATE_LEFT


NODE = """
import sys, time
import grpc
from atoll_control.api.v1 import node_pb2, node_pb2_grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    nodes = node_pb2_grpc.NodeServiceStub(channel)
    nodes.Register(node_pb2.RegisterRequest(node_id="killed", incarnation=1), timeout=10)
    print("registered", flush=True)
    time.sleep(60)
"""


def test_a_killed_node_is_marked_dead_by_the_servers_own_timers_and_logged(server: Any, channel: grpc.Channel) -> None:
    with subprocess.Popen([sys.executable, "-c", NODE, server.address], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "registered\n"
        process.kill()
    death = server.wait_for("node_dead")
    assert (death["node_id"], death["incarnation"], death["level"]) == ("killed", 1, "warning")
    # By how much the times are stretched depends on how busy the machine is.
    assert "(dead after " in death["reason"]
    assert "it closed its last connection" in death["reason"]
    health = health_pb2_grpc.HealthServiceStub(channel)
    code, details = status(health.Heartbeat, health_pb2.HeartbeatRequest(node_id="killed", incarnation=1))
    assert code == "FAILED_PRECONDITION"
    assert "register again" in details
    nodes = node_pb2_grpc.NodeServiceStub(channel)
    (ending,) = nodes.ListEndings(node_pb2.ListEndingsRequest(node_id="killed"), timeout=TIMEOUT).endings
    assert (ending.node.state, ending.node.state_reason) == (node_pb2.NODE_STATE_DEAD, death["reason"])


def test_a_node_that_is_silent_and_answers_pings_is_probed_over_the_wire(channel: grpc.Channel) -> None:
    nodes, health = node_pb2_grpc.NodeServiceStub(channel), health_pb2_grpc.HealthServiceStub(channel)
    nodes.Register(node_pb2.RegisterRequest(node_id="probed", incarnation=1), timeout=TIMEOUT)
    request = health_pb2.ExplainRequest(node_id="probed")
    explanation = health.Explain(request, timeout=TIMEOUT)
    deadline = time.monotonic() + TIMEOUT
    while not any(probe.answered for probe in explanation.probes) and time.monotonic() < deadline:
        time.sleep(0.02)
        explanation = health.Explain(request, timeout=TIMEOUT)
    assert any(probe.answered and probe.round_trip.nanos > 0 for probe in explanation.probes)
    assert explanation.connected


NODES = """
import sys, threading, time
import grpc
from atoll_control.api.v1 import health_pb2, health_pb2_grpc, node_pb2, node_pb2_grpc

def live(name):
    with grpc.insecure_channel(sys.argv[1], options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        nodes, health = node_pb2_grpc.NodeServiceStub(channel), health_pb2_grpc.HealthServiceStub(channel)
        nodes.Register(node_pb2.RegisterRequest(node_id=name, incarnation=1), timeout=10)
        registered.release()
        while True:
            try:
                health.Heartbeat(health_pb2.HeartbeatRequest(node_id=name, incarnation=1), timeout=1)
            except grpc.RpcError:
                pass
            time.sleep(0.2)

registered = threading.Semaphore(0)
for number in range(8):
    threading.Thread(target=live, args=(f"healthy-{number}",), daemon=True).start()
for number in range(8):
    registered.acquire()
print("registered", flush=True)
sys.stdin.read()
"""


@pytest.mark.once
@pytest.mark.alone
def test_a_server_that_was_stopped_for_many_deadlines_kills_no_healthy_node(serve: Callable[..., Any]) -> None:
    server = serve("--heartbeat-interval", "0.25", "--dead-after", "2")
    with (
        subprocess.Popen(
            [sys.executable, "-c", NODES, server.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "registered\n"
        nodes, health = node_pb2_grpc.NodeServiceStub(channel), health_pb2_grpc.HealthServiceStub(channel)
        time.sleep(2.5)  # beyond the grace after the start
        server.pause()
        time.sleep(6.0)
        server.resume()
        deadline = time.monotonic() + TIMEOUT
        detector = health.GetDetector(health_pb2.GetDetectorRequest(), timeout=TIMEOUT).detector
        while (detector.worst_lag.seconds < 4 or detector.held) and time.monotonic() < deadline:
            time.sleep(0.05)
            detector = health.GetDetector(health_pb2.GetDetectorRequest(), timeout=TIMEOUT).detector
        assert detector.worst_lag.seconds >= 4
        time.sleep(2.5)  # beyond another deadline
        states = {node.node_id: node.state for node in nodes.ListNodes(node_pb2.ListNodesRequest()).nodes}
        process.kill()
    assert states == {f"healthy-{number}": node_pb2.NODE_STATE_ALIVE for number in range(8)}


def test_the_store_stores_lists_and_deletes(channel: grpc.Channel) -> None:
    kv = kv_pb2_grpc.KvServiceStub(channel)
    assert kv.Put(kv_pb2.PutRequest(namespace="w", key=b"a/1", value=b"\x00\xff"), timeout=TIMEOUT).added
    assert kv.Get(kv_pb2.GetRequest(namespace="w", key=b"a/1"), timeout=TIMEOUT).value == b"\x00\xff"
    assert list(kv.Keys(kv_pb2.KeysRequest(namespace="w", prefix=b"a/"), timeout=TIMEOUT).keys) == [b"a/1"]
    assert kv.Delete(kv_pb2.DeleteRequest(namespace="w", key=b"a/1"), timeout=TIMEOUT).deleted


def test_a_value_of_the_largest_size_travels(channel: grpc.Channel) -> None:
    kv = kv_pb2_grpc.KvServiceStub(channel)
    value = bytes(range(256)) * 4096
    kv.Put(kv_pb2.PutRequest(namespace="w", key=b"large", value=value), timeout=TIMEOUT)
    assert kv.Get(kv_pb2.GetRequest(namespace="w", key=b"large"), timeout=TIMEOUT).value == value


def test_a_handlers_refusal_arrives_with_its_status_and_message(channel: grpc.Channel) -> None:
    nodes, kv = node_pb2_grpc.NodeServiceStub(channel), kv_pb2_grpc.KvServiceStub(channel)
    assert status(nodes.GetNode, node_pb2.GetNodeRequest(node_id="x"))[0] == "NOT_FOUND"
    assert status(nodes.Register, node_pb2.RegisterRequest(incarnation=1)) == (
        "INVALID_ARGUMENT",
        "node_id: is required",
    )
    assert status(kv.Get, kv_pb2.GetRequest(key=b"x")) == ("NOT_FOUND", "namespace '' has no key b'x'")


def test_a_slow_module_delays_its_own_calls_and_not_the_others(channel: grpc.Channel) -> None:
    faults = fault_pb2_grpc.FaultServiceStub(channel)
    nodes, kv = node_pb2_grpc.NodeServiceStub(channel), kv_pb2_grpc.KvServiceStub(channel)
    block = Duration(seconds=1)
    slow = fault_pb2.SetSlowRequest(module="KvManager", kind=fault_pb2.SLOW_KIND_SLEEP, block=block)
    assert faults.SetSlow(slow, timeout=TIMEOUT).loop == "kv_manager"
    try:
        waiting = kv.Keys.future(kv_pb2.KeysRequest(), timeout=TIMEOUT)
        for _ in range(10):
            nodes.ListNodes(node_pb2.ListNodesRequest(), timeout=TIMEOUT)
        assert not waiting.done()
        waiting.result()
    finally:
        faults.SetSlow(fault_pb2.SetSlowRequest(module="KvManager", kind=fault_pb2.SLOW_KIND_OFF), timeout=TIMEOUT)


def test_statistics_name_the_loops_their_modules_and_each_handler(channel: grpc.Channel) -> None:
    node_pb2_grpc.NodeServiceStub(channel).ListNodes(node_pb2.ListNodesRequest(), timeout=TIMEOUT)
    stats = fault_pb2_grpc.FaultServiceStub(channel).GetStats(fault_pb2.GetStatsRequest(), timeout=TIMEOUT)
    loops = {loop.name: loop for loop in stats.loops}
    assert {name: list(loop.modules) for name, loop in loops.items()} == {
        "node_manager": ["NodeManager"],
        "health": ["HealthMonitor"],
        "kv_manager": ["KvManager"],
    }
    handler = next(handler for handler in loops["node_manager"].handlers if handler.name == "NodeService.ListNodes")
    assert handler.total >= 1
    assert handler.execution_time.count >= 1
    assert handler.execution_time.p50 > 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (
            {"module": "Nothing", "kind": fault_pb2.SLOW_KIND_OFF},
            "module: this server has HealthMonitor, KvManager, NodeManager",
        ),
        ({"module": "KvManager"}, "kind:"),
        ({"module": "KvManager", "kind": 99}, "kind:"),
        ({"module": "KvManager", "kind": fault_pb2.SLOW_KIND_CPU}, "block:"),
        ({"module": "KvManager", "kind": fault_pb2.SLOW_KIND_CPU, "block": Duration(seconds=6)}, "block:"),
    ],
)
def test_slowness_that_makes_no_sense_is_refused(channel: grpc.Channel, fields: dict[str, Any], field: str) -> None:
    faults = fault_pb2_grpc.FaultServiceStub(channel)
    code, details = status(faults.SetSlow, fault_pb2.SetSlowRequest(**fields))
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(field)


def test_a_watch_tells_of_a_put_with_a_time_to_live_and_of_nodes_and_events(channel: grpc.Channel) -> None:
    kv, watch = kv_pb2_grpc.KvServiceStub(channel), watch_pb2_grpc.WatchServiceStub(channel)
    topics = watch_pb2_grpc.TopicServiceStub(channel)
    keys = watch_pb2.OpenWatch(kv=watch_pb2.KvSource(namespace="watched", prefix=True))
    nodes = watch_pb2.OpenWatch(nodes=watch_pb2.NodesSource(), skip_snapshot=True)
    events = watch_pb2.OpenWatch(topic=watch_pb2.TopicSource(topic="t"))
    requests = [watch_pb2.WatchRequest(open=it) for it in (keys, nodes, events)]
    responses = watch.Watch(iter(requests), timeout=2 * TIMEOUT)
    opened = 0
    while opened < len(requests):
        opened += next(responses).HasField("opened")
    kv.Put(kv_pb2.PutRequest(namespace="watched", key=b"k", value=b"v", ttl=Duration(seconds=100)), timeout=TIMEOUT)
    topics.Publish(watch_pb2.PublishRequest(topic="t", payload=b"e"), timeout=TIMEOUT)
    request = node_pb2.RegisterRequest(node_id="watched", incarnation=1)
    node_pb2_grpc.NodeServiceStub(channel).Register(request, timeout=TIMEOUT)
    told: set[object] = set()
    while len(told) < 3:
        response = next(responses)
        told.update(
            (it.entry.key, it.entry.value, it.entry.lease_id) for it in response.changes.changes if it.HasField("entry")
        )
        told.update(it.node.node_id for it in response.changes.changes if it.node.node_id == "watched")
        told.update(it.payload for it in response.events.events)
    assert told == {(b"k", b"v", 0), "watched", b"e"}
    responses.cancel()
