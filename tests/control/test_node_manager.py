"""NodeManager: registration, heartbeats, the failure detector. Time is set, never waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from atoll_control.api.v1 import node_pb2
from atoll_control.server.node_manager import NodeManager, NodeSettings
from atoll_control.testing import ManualLoop, answer, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

ALIVE, DEAD, LEFT = node_pb2.NODE_STATE_ALIVE, node_pb2.NODE_STATE_DEAD, node_pb2.NODE_STATE_LEFT


class Cluster:
    """A NodeManager on a clock that the test moves."""

    def __init__(self, settings: NodeSettings | None = None) -> None:
        self.loop = ManualLoop()
        self.manager = NodeManager(
            settings or NodeSettings(heartbeat_interval=1.0, node_deadline=5.0, sweep_interval=0.25),
            server_id="server-1",
            wall_clock=self.loop.wall,
            io_context=self.loop,
        )
        asyncio.run(self.manager.start())

    def register(self, node_id: str = "a", incarnation: int = 1, **fields: Any) -> node_pb2.RegisterResponse:
        request = node_pb2.RegisterRequest(node_id=node_id, incarnation=incarnation, **fields)
        return asyncio.run(answer(self.manager.Register, request))

    def refused_registration(self, node_id: str = "a", incarnation: int = 1, **fields: Any) -> tuple[str, str]:
        request = node_pb2.RegisterRequest(node_id=node_id, incarnation=incarnation, **fields)
        return outcome(refusal(self.manager.Register, request))

    def heartbeat(self, node_id: str = "a", incarnation: int = 1) -> node_pb2.HeartbeatResponse:
        request = node_pb2.HeartbeatRequest(node_id=node_id, incarnation=incarnation)
        return asyncio.run(answer(self.manager.Heartbeat, request))

    def refused_heartbeat(self, node_id: str = "a", incarnation: int = 1) -> tuple[str, str]:
        request = node_pb2.HeartbeatRequest(node_id=node_id, incarnation=incarnation)
        return outcome(refusal(self.manager.Heartbeat, request))

    def unregister(self, node_id: str = "a", incarnation: int = 1, reason: str = "") -> node_pb2.Node:
        request = node_pb2.UnregisterRequest(node_id=node_id, incarnation=incarnation, reason=reason)
        return asyncio.run(answer(self.manager.Unregister, request)).node

    def refused_unregistration(self, node_id: str = "a", incarnation: int = 1, reason: str = "") -> tuple[str, str]:
        request = node_pb2.UnregisterRequest(node_id=node_id, incarnation=incarnation, reason=reason)
        return outcome(refusal(self.manager.Unregister, request))

    def list_nodes(self, **fields: Any) -> node_pb2.ListNodesResponse:
        return asyncio.run(answer(self.manager.ListNodes, node_pb2.ListNodesRequest(**fields)))

    def node(self, node_id: str = "a") -> node_pb2.Node:
        return next(node for node in self.list_nodes().nodes if node.node_id == node_id)


def outcome(call: Coroutine[Any, Any, Any]) -> tuple[str, str]:
    refused = asyncio.run(call)
    return refused.code.name, refused.details


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_registered_node_is_listed_alive_with_the_facts_it_gave(cluster: Cluster) -> None:
    host = node_pb2.Host(name="box", cpus=8, memory_bytes=1 << 34, os="linux", architecture="x86_64")
    cluster.register("a", 7, address="10.0.0.1:7000", host=host, labels={"zone": "b"})
    cluster.loop.advance(1.5)
    (node,) = cluster.list_nodes().nodes
    assert (node.node_id, node.incarnation, node.address, node.host) == ("a", 7, "10.0.0.1:7000", host)
    assert dict(node.labels) == {"zone": "b"}
    assert (node.state, node.state_reason) == (ALIVE, "")
    assert node.registered_at.seconds == node.state_since.seconds == 1_700_000_000
    assert node.since_heartbeat.ToNanoseconds() == 1_500_000_000


def test_registering_tells_the_interval_the_deadline_and_the_server(cluster: Cluster) -> None:
    reply = cluster.register()
    assert reply.heartbeat_interval.seconds == 1
    assert reply.node_deadline.seconds == 5
    assert reply.server_id == "server-1"


def test_a_heartbeat_tells_the_interval_and_the_server() -> None:
    cluster = Cluster(NodeSettings(heartbeat_interval=0.5, node_deadline=5.0))
    cluster.register()
    reply = cluster.heartbeat()
    assert reply.heartbeat_interval.nanos == 500_000_000
    assert reply.server_id == "server-1"


def test_a_node_that_sends_heartbeats_stays_alive(cluster: Cluster) -> None:
    cluster.register()
    for _ in range(20):
        cluster.loop.advance(4.9)
        cluster.heartbeat()
    assert cluster.node().state == ALIVE


def test_a_node_whose_heartbeats_stay_away_is_marked_dead_with_the_reason(cluster: Cluster) -> None:
    cluster.register()
    cluster.loop.advance(1.0)
    cluster.heartbeat()
    cluster.loop.advance(5.0)
    assert cluster.node().state == ALIVE
    cluster.loop.advance(0.25)
    node = cluster.node()
    assert node.state == DEAD
    assert node.state_reason == "no heartbeat for 5.25 s (deadline 5 s)"
    assert node.state_since.seconds == 1_700_000_006


def test_a_death_is_noticed_one_sweep_after_the_deadline_at_the_latest() -> None:
    cluster = Cluster(NodeSettings(node_deadline=5.0, sweep_interval=0.5))
    cluster.loop.advance(0.3)
    cluster.register()
    cluster.loop.advance(5.5)
    assert cluster.node().state == DEAD


def test_only_the_silent_node_dies(cluster: Cluster) -> None:
    cluster.register("silent")
    cluster.register("lively")
    for _ in range(8):
        cluster.loop.advance(1.0)
        cluster.heartbeat("lively")
    assert {node.node_id: node.state for node in cluster.list_nodes().nodes} == {"lively": ALIVE, "silent": DEAD}


def test_a_dead_nodes_heartbeat_is_told_to_register_again(cluster: Cluster) -> None:
    cluster.register()
    cluster.loop.advance(6.0)
    code, details = cluster.refused_heartbeat()
    assert code == "FAILED_PRECONDITION"
    assert "is DEAD: no heartbeat for 5.25 s (deadline 5 s)" in details
    assert "register again with a higher incarnation" in details
    assert cluster.node().state == DEAD


def test_an_unknown_nodes_heartbeat_is_told_to_register_again(cluster: Cluster) -> None:
    code, details = cluster.refused_heartbeat("nobody")
    assert code == "NOT_FOUND"
    assert "'nobody'" in details
    assert "register again" in details


def test_a_dead_node_returns_with_a_higher_incarnation(cluster: Cluster) -> None:
    cluster.register(incarnation=1)
    cluster.loop.advance(6.0)
    cluster.register(incarnation=2)
    cluster.heartbeat(incarnation=2)
    node = cluster.node()
    assert (node.state, node.incarnation, node.state_reason) == (ALIVE, 2, "")


def test_death_is_final_for_an_incarnation(cluster: Cluster) -> None:
    cluster.register(incarnation=1)
    cluster.loop.advance(6.0)
    code, details = cluster.refused_registration(incarnation=1)
    assert code == "FAILED_PRECONDITION"
    assert "this is final, register again with a higher incarnation" in details
    assert cluster.node().state == DEAD


def test_a_living_node_may_be_replaced_by_a_higher_incarnation(cluster: Cluster) -> None:
    cluster.register(incarnation=1, address="10.0.0.1:7000")
    cluster.register(incarnation=2, address="10.0.0.2:7000")
    node = cluster.node()
    assert (node.incarnation, node.address, node.state) == (2, "10.0.0.2:7000", ALIVE)
    assert len(cluster.list_nodes().nodes) == 1


def test_a_stale_incarnation_can_neither_register_nor_beat_nor_leave(cluster: Cluster) -> None:
    cluster.register(incarnation=5)
    for refused in (cluster.refused_registration, cluster.refused_heartbeat, cluster.refused_unregistration):
        code, details = refused("a", 4)
        assert code == "FAILED_PRECONDITION"
        assert "incarnation 4 of node 'a' is stale: 5 has registered since" in details
    assert cluster.node().state == ALIVE


def test_a_heartbeat_does_not_register_a_higher_incarnation(cluster: Cluster) -> None:
    cluster.register(incarnation=5)
    code, details = cluster.refused_heartbeat("a", 6)
    assert code == "FAILED_PRECONDITION"
    assert "not yet with 6: register again" in details


def test_registering_twice_with_one_incarnation_is_a_retry_that_counts_as_a_heartbeat(cluster: Cluster) -> None:
    cluster.register(labels={"zone": "a"}, host=node_pb2.Host(cpus=1))
    cluster.loop.advance(4.0)
    cluster.register(labels={"zone": "b"}, host=node_pb2.Host(cpus=2))
    cluster.loop.advance(4.0)
    node = cluster.node()
    assert (node.state, node.labels["zone"], node.host.cpus) == (ALIVE, "b", 2)
    assert node.registered_at.seconds == 1_700_000_000


def test_two_processes_can_not_share_an_id_and_an_incarnation(cluster: Cluster) -> None:
    cluster.register(incarnation=1, address="10.0.0.1:7000")
    code, details = cluster.refused_registration(incarnation=1, address="10.0.0.2:7000")
    assert code == "ALREADY_EXISTS"
    assert "is alive at '10.0.0.1:7000'" in details


def test_a_node_that_unregisters_has_left_with_its_reason(cluster: Cluster) -> None:
    cluster.register()
    node = cluster.unregister(reason="drained")
    assert (node.state, node.state_reason) == (LEFT, "drained")
    cluster.loop.advance(60.0)
    assert cluster.node().state == LEFT
    code, details = cluster.refused_heartbeat()
    assert code == "FAILED_PRECONDITION"
    assert "is LEFT: drained" in details


def test_unregistering_is_safe_to_repeat(cluster: Cluster) -> None:
    cluster.register()
    cluster.unregister(reason="first")
    assert cluster.unregister(reason="second").state_reason == "first"


def test_a_dead_node_that_unregisters_learns_that_it_was_dead(cluster: Cluster) -> None:
    cluster.register()
    cluster.loop.advance(6.0)
    assert cluster.unregister().state == DEAD


def test_unregistering_an_unknown_node_is_not_found(cluster: Cluster) -> None:
    assert cluster.refused_unregistration("nobody")[0] == "NOT_FOUND"


def test_a_stalled_server_declares_nobody_dead_who_could_not_be_heard(cluster: Cluster) -> None:
    cluster.register()
    cluster.loop.stall(60.0)
    cluster.loop.advance(0.0)
    assert cluster.node().state == ALIVE
    cluster.heartbeat()
    assert cluster.node().state == ALIVE


def test_after_a_stall_a_silent_node_still_dies_and_the_reason_tells_of_the_stall(cluster: Cluster) -> None:
    cluster.register()
    cluster.loop.stall(10.25)
    cluster.loop.advance(4.75)
    assert cluster.node().state == ALIVE
    cluster.loop.advance(0.25)
    node = cluster.node()
    assert node.state == DEAD
    assert node.state_reason == (
        "no heartbeat for 15.25 s (deadline 5 s, extended by 10.00 s because the server itself was late)"
    )


def test_an_extension_is_used_up_by_the_next_heartbeat(cluster: Cluster) -> None:
    cluster.register()
    cluster.loop.stall(10.0)
    cluster.loop.advance(0.0)
    cluster.heartbeat()
    cluster.loop.advance(5.5)
    node = cluster.node()
    assert node.state == DEAD
    assert "extended" not in node.state_reason


def test_nobody_dies_after_the_module_stopped(cluster: Cluster) -> None:
    cluster.register()
    asyncio.run(cluster.manager.stop())
    cluster.loop.advance(60.0)
    assert cluster.node().state == ALIVE


def test_nodes_that_died_or_left_are_forgotten_in_the_end() -> None:
    cluster = Cluster(NodeSettings(forget_after=60.0))
    cluster.register("dies")
    cluster.register("leaves")
    cluster.unregister("leaves")
    cluster.loop.advance(30.0)
    assert len(cluster.list_nodes().nodes) == 2
    cluster.loop.advance(40.0)
    assert list(cluster.list_nodes().nodes) == []
    assert cluster.refused_heartbeat("dies")[0] == "NOT_FOUND"
    cluster.register("dies")
    assert cluster.node("dies").state == ALIVE


def test_nodes_are_listed_in_the_order_of_their_ids_a_page_at_a_time(cluster: Cluster) -> None:
    for node_id in ("c", "a", "e", "b", "d"):
        cluster.register(node_id)
    first = cluster.list_nodes(limit=2)
    assert ([node.node_id for node in first.nodes], first.more) == (["a", "b"], True)
    last = cluster.list_nodes(limit=3, start_after="b")
    assert ([node.node_id for node in last.nodes], last.more) == (["c", "d", "e"], False)


def test_nodes_are_listed_by_state(cluster: Cluster) -> None:
    cluster.register("dead")
    cluster.loop.advance(6.0)
    cluster.register("alive")
    cluster.register("left")
    cluster.unregister("left")
    assert [node.node_id for node in cluster.list_nodes(states=[DEAD]).nodes] == ["dead"]
    assert [node.node_id for node in cluster.list_nodes(states=[ALIVE, LEFT]).nodes] == ["alive", "left"]
    assert cluster.manager.count_by_state() == {"DEAD": 1, "ALIVE": 1, "LEFT": 1}


def test_a_page_ends_before_it_outgrows_a_message(cluster: Cluster) -> None:
    labels = {f"label-{number:02}": "x" * 1000 for number in range(60)}
    for number in range(60):
        cluster.register(f"node-{number:02}", labels=labels)
    page = cluster.list_nodes()
    assert page.more
    assert page.ByteSize() < 4 << 20
    rest = cluster.list_nodes(start_after=page.nodes[-1].node_id)
    assert len(page.nodes) + len(rest.nodes) == 60
    assert not rest.more


def test_a_listing_beyond_the_limit_of_pages_is_refused(cluster: Cluster) -> None:
    refused = asyncio.run(refusal(cluster.manager.ListNodes, node_pb2.ListNodesRequest(limit=10_001)))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.details == "limit: must be at most 10,000, got 10,001"


def test_no_more_nodes_than_allowed_are_kept() -> None:
    cluster = Cluster(NodeSettings(max_nodes=2))
    cluster.register("a")
    cluster.register("b")
    assert cluster.refused_registration("c")[0] == "RESOURCE_EXHAUSTED"
    cluster.register("b", 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"node_id": ""}, "node_id: is required"),
        ({"node_id": "x" * 129}, "node_id: must be at most 128 characters, got 129"),
        ({"node_id": "a b"}, "node_id: may contain letters"),
        ({"node_id": "knoten-ä"}, "node_id: may contain letters"),
        ({"node_id": "a\n"}, "node_id: may contain letters"),
        ({"incarnation": 0}, "incarnation: must be greater than zero"),
        ({"address": "nowhere"}, 'address: must be "host:port" or empty'),
        ({"address": "host:0"}, 'address: must be "host:port" or empty'),
        ({"address": "host:70000"}, 'address: must be "host:port" or empty'),
        ({"address": "::1:80"}, 'address: must be "host:port" or empty'),
        ({"address": "h" * 300 + ":1"}, "address: must be at most 256 bytes, got 302"),
        ({"host": node_pb2.Host(name="x" * 257)}, "host.name: must be at most 256 bytes, got 257"),
        ({"host": node_pb2.Host(os="x" * 257)}, "host.os: must be at most 256 bytes"),
        ({"host": node_pb2.Host(architecture="x" * 257)}, "host.architecture: must be at most 256 bytes"),
        ({"labels": {str(n): "" for n in range(65)}}, "labels: must be at most 64, got 65"),
        ({"labels": {"": "x"}}, "labels: a key must not be empty"),
        ({"labels": {"k" * 129: "x"}}, "labels: a key must be at most 128 bytes, got 129"),
        ({"labels": {"k": "v" * 1025}}, "labels['k']: must be at most 1,024 bytes, got 1,025"),
    ],
)
def test_a_registration_out_of_bounds_is_refused_and_the_field_named(
    cluster: Cluster, fields: dict[str, Any], message: str
) -> None:
    code, details = cluster.refused_registration(**{"node_id": "a", "incarnation": 1, **fields})
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(message)
    assert not cluster.list_nodes().nodes


@pytest.mark.parametrize("address", ["", "host:1", "10.0.0.1:65535", "[::1]:7000", "[fe80::1%eth0]:7000"])
def test_an_address_may_be_empty_a_name_an_ipv4_or_an_ipv6(cluster: Cluster, address: str) -> None:
    cluster.register(address=address)
    assert cluster.node().address == address


@pytest.mark.parametrize("method", ["refused_heartbeat", "refused_unregistration"])
@pytest.mark.parametrize(("node_id", "incarnation", "field"), [("", 1, "node_id:"), ("a", 0, "incarnation:")])
def test_heartbeats_and_goodbyes_without_id_or_incarnation_are_refused(
    cluster: Cluster, method: str, node_id: str, incarnation: int, field: str
) -> None:
    refused: Callable[[str, int], tuple[str, str]] = getattr(cluster, method)
    code, details = refused(node_id, incarnation)
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(field)


def test_a_reason_beyond_its_limit_is_refused(cluster: Cluster) -> None:
    cluster.register()
    code, details = cluster.refused_unregistration(reason="x" * 1025)
    assert (code, details) == ("INVALID_ARGUMENT", "reason: must be at most 1,024 bytes, got 1,025")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heartbeat_interval": 0.0}, "heartbeat_interval: must be a positive number of seconds, got 0"),
        ({"node_deadline": float("nan")}, "node_deadline: must be a positive"),
        ({"sweep_interval": float("inf")}, "sweep_interval: must be a positive"),
        ({"forget_after": -1.0}, "forget_after: must be a positive"),
        ({"heartbeat_interval": 3.0}, "node_deadline: must be at least twice the heartbeat interval"),
        ({"max_nodes": 0}, "max_nodes: must be at least 1, got 0"),
    ],
)
def test_settings_that_can_not_work_are_refused_with_the_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NodeSettings(**settings)
