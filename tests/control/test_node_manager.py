"""NodeManager: registration, goodbyes, conditions, listings and the history. Time is set, never waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.control.cluster import ALIVE, DEAD, LEFT, REPLACED, WALL, Cluster, FlakyStore

from atoll.errors import (
    OutcomeUnknownError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFencedError,
    StoreFullError,
    StoreUnavailableError,
)
from atoll.testing import FakeServicerContext
from atoll_control.api.v1 import node_pb2
from atoll_control.server.node_manager import MAX_CONDITIONS, NodeManager, NodeSettings
from atoll_control.server.owners import node_owner
from atoll_control.testing import answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TRUE, FALSE = node_pb2.CONDITION_STATUS_TRUE, node_pb2.CONDITION_STATUS_FALSE


@pytest.fixture
def make() -> Iterator[Callable[..., Cluster]]:
    """Makes clusters, and closes them at the end."""
    made: list[Cluster] = []

    def make_cluster(**arguments: Any) -> Cluster:
        made.append(Cluster(**arguments))
        return made[-1]

    yield make_cluster
    for cluster in made:
        cluster.close()


@pytest.fixture
def cluster(make: Callable[..., Cluster]) -> Cluster:
    return make()


def condition(name: str, status: node_pb2.ConditionStatus.ValueType = TRUE, reason: str = "") -> node_pb2.Condition:
    return node_pb2.Condition(name=name, status=status, reason=reason)


def set_conditions(cluster: Cluster, *conditions: node_pb2.Condition, **fields: Any) -> node_pb2.Node:
    request = node_pb2.SetConditionsRequest(**{"node_id": "a", "conditions": conditions, **fields})
    node: node_pb2.Node = cluster.call(cluster.nodes.SetConditions, request).node
    return node


def drain(cluster: Cluster, node_id: str = "a", *, draining: bool = True, reason: str = "") -> node_pb2.Node:
    request = node_pb2.DrainRequest(node_id=node_id, draining=draining, reason=reason)
    node: node_pb2.Node = cluster.call(cluster.nodes.Drain, request).node
    return node


# -- registering -------------------------------------------------------------------------------------------------------


def test_a_registered_node_is_listed_alive_with_the_facts_it_gave(cluster: Cluster) -> None:
    host = node_pb2.Host(name="box", cpus=8, memory_bytes=1 << 34, os="linux", architecture="x86_64")
    facts: dict[str, Any] = {"host": host, "labels": {"zone": "b"}, "resources": {"gpu": 2.0}}
    reply = cluster.register("a", 7, address="10.0.0.1:7000", conditions=[condition("DiskFull")], **facts)
    cluster.advance(1.5)
    (node,) = cluster.list_nodes().nodes
    assert (node.node_id, node.incarnation, node.address, node.host) == ("a", 7, "10.0.0.1:7000", host)
    assert (dict(node.labels), dict(node.resources)) == ({"zone": "b"}, {"gpu": 2.0})
    assert (node.state, node.state_reason, node.draining) == (ALIVE, "", False)
    assert node.registered_at.seconds == node.state_since.seconds == WALL
    assert [(each.name, each.status, each.since.seconds) for each in node.conditions] == [("DiskFull", TRUE, WALL)]
    assert node == reply.node == cluster.node()
    assert node.revision == cluster.store.revision


def test_registering_tells_the_interval_the_deadline_the_server_and_its_epoch(cluster: Cluster) -> None:
    reply = cluster.register()
    assert 0.2 <= reply.heartbeat_interval.ToTimedelta().total_seconds() <= 2.0
    assert reply.node_deadline.seconds == 12
    assert (reply.server_id, reply.epoch) == ("server-1", cluster.store.epoch)
    assert reply.epoch > 0


def test_a_dead_node_returns_with_a_higher_incarnation(cluster: Cluster) -> None:
    cluster.register(incarnation=1)
    cluster.die()
    cluster.register(incarnation=2)
    cluster.heartbeat(incarnation=2)
    node = cluster.node()
    assert (node.state, node.incarnation, node.state_reason) == (ALIVE, 2, "")


def test_death_is_final_for_an_incarnation(cluster: Cluster) -> None:
    cluster.register(incarnation=1)
    cluster.die()
    code, details = cluster.refused_registration(incarnation=1)
    assert code == "FAILED_PRECONDITION"
    assert "this is final, register again with a higher incarnation" in details
    assert cluster.node().state == DEAD


def test_a_living_node_may_be_replaced_by_a_higher_incarnation_at_its_address(cluster: Cluster) -> None:
    cluster.register(incarnation=1, address="10.0.0.1:7000")
    cluster.register(incarnation=2, address="10.0.0.1:7000")
    assert (cluster.node().incarnation, cluster.node().state) == (2, ALIVE)
    (ending,) = cluster.list_endings().endings
    assert (ending.node.incarnation, ending.node.state) == (1, REPLACED)
    assert ending.node.state_reason == "incarnation 2 has registered"


def test_a_stale_incarnation_can_neither_register_nor_beat_nor_leave(cluster: Cluster) -> None:
    cluster.register(incarnation=5)
    goodbye = node_pb2.UnregisterRequest(node_id="a", incarnation=4)
    for refused in (
        cluster.refused_registration("a", 4),
        cluster.refused_heartbeat("a", 4),
        cluster.refused(cluster.nodes.Unregister, goodbye),
    ):
        assert refused[0] == "FAILED_PRECONDITION"
        assert "incarnation 4 of node 'a' is stale: 5 has registered since" in refused[1]
    assert cluster.node().state == ALIVE


def test_registering_twice_with_one_incarnation_is_a_retry_that_counts_as_a_heartbeat(cluster: Cluster) -> None:
    cluster.register(labels={"zone": "a"}, host=node_pb2.Host(cpus=1), resources={"cpu": 1})
    cluster.advance(4.0)
    cluster.register(labels={"zone": "b"}, host=node_pb2.Host(cpus=2))
    cluster.advance(4.0)
    node = cluster.node()
    assert (node.state, node.labels["zone"], node.host.cpus, dict(node.resources)) == (ALIVE, "b", 2, {})
    assert node.registered_at.seconds == WALL
    assert cluster.explain().since_heartbeat.seconds == 4
    assert not cluster.list_endings().endings


def test_a_retry_that_says_nothing_new_changes_nothing(cluster: Cluster) -> None:
    first = cluster.register(labels={"zone": "a"})
    assert cluster.register(labels={"zone": "a"}).node == first.node
    assert cluster.store.revision == first.node.revision


def test_two_processes_can_not_share_an_id_and_an_incarnation(cluster: Cluster) -> None:
    cluster.register(incarnation=1, address="10.0.0.1:7000")
    code, details = cluster.refused_registration(incarnation=1, address="10.0.0.2:7000")
    assert code == "ALREADY_EXISTS"
    assert "is alive at '10.0.0.1:7000', and registers at '10.0.0.2:7000'" in details


def test_an_id_that_is_live_at_another_address_is_refused_whatever_the_incarnation(cluster: Cluster) -> None:
    cluster.register(incarnation=1, address="10.0.0.1:7000")
    code, details = cluster.refused_registration(incarnation=2, address="10.0.0.2:7000")
    assert code == "ALREADY_EXISTS"
    assert "'10.0.0.1:7000'" in details
    assert "'10.0.0.2:7000'" in details
    assert cluster.node().incarnation == 1


def test_a_node_that_has_hung_up_may_come_back_at_another_address_at_once(cluster: Cluster) -> None:
    cluster.register(incarnation=1, address="10.0.0.1:7000")
    cluster.connections.pop("a").close()
    cluster.register(incarnation=2, address="10.0.0.2:7000")
    assert (cluster.node().incarnation, cluster.node().address) == (2, "10.0.0.2:7000")


def test_a_node_without_an_address_has_none_that_could_be_another_one(cluster: Cluster) -> None:
    cluster.register(incarnation=1)
    cluster.register(incarnation=2, address="10.0.0.2:7000")
    assert cluster.node().address == "10.0.0.2:7000"


def test_no_more_nodes_than_allowed_are_kept(make: Callable[..., Cluster]) -> None:
    cluster = make(nodes=NodeSettings(max_nodes=2))
    cluster.register("a")
    cluster.register("b")
    code, details = cluster.refused_registration("c")
    assert code == "RESOURCE_EXHAUSTED"
    assert details.startswith("the server keeps at most 2 nodes")
    cluster.register("b", 2)


# -- leaving, draining, conditions -------------------------------------------------------------------------------------


def test_a_node_that_unregisters_has_left_with_its_reason(cluster: Cluster) -> None:
    cluster.register()
    node = cluster.unregister(reason="drained")
    assert (node.state, node.state_reason) == (LEFT, "drained")
    cluster.advance(60.0)
    assert cluster.node() == node
    code, details = cluster.refused_heartbeat()
    assert code == "FAILED_PRECONDITION"
    assert "is LEFT: drained" in details


def test_unregistering_is_safe_to_repeat(cluster: Cluster) -> None:
    cluster.register()
    cluster.unregister(reason="first")
    assert cluster.unregister(reason="second").state_reason == "first"
    assert len(cluster.list_endings().endings) == 1


def test_a_dead_node_that_unregisters_learns_that_it_was_dead(cluster: Cluster) -> None:
    cluster.register()
    cluster.die()
    assert cluster.unregister().state == DEAD


def test_unknown_nodes_are_not_found(cluster: Cluster) -> None:
    for method, request in (
        (cluster.nodes.Unregister, node_pb2.UnregisterRequest(node_id="nobody", incarnation=1)),
        (cluster.nodes.Drain, node_pb2.DrainRequest(node_id="nobody")),
        (cluster.nodes.SetConditions, node_pb2.SetConditionsRequest(node_id="nobody")),
        (cluster.nodes.GetNode, node_pb2.GetNodeRequest(node_id="nobody")),
    ):
        code, details = cluster.refused(method, request)
        assert code == "NOT_FOUND"
        assert "'nobody'" in details


def test_a_draining_node_stays_alive_and_says_so_until_it_may_work_again(cluster: Cluster) -> None:
    cluster.register()
    node = drain(cluster, reason="new fans")
    assert (node.state, node.draining, node.drain_reason) == (ALIVE, True, "new fans")
    assert drain(cluster, reason="new fans") == node
    assert [each.node_id for each in cluster.list_nodes(draining=True).nodes] == ["a"]
    assert not cluster.list_nodes(draining=False).nodes
    node = drain(cluster, draining=False, reason="done")
    assert (node.draining, node.drain_reason) == (False, "")


def test_a_drain_is_about_the_machine_and_outlives_its_incarnation(cluster: Cluster) -> None:
    cluster.register()
    drain(cluster, reason="new fans")
    cluster.register(incarnation=2)
    assert (cluster.node().draining, cluster.node().drain_reason) == (True, "new fans")


def test_who_is_not_alive_can_not_be_drained(cluster: Cluster) -> None:
    cluster.register()
    cluster.unregister()
    code, details = cluster.refused(cluster.nodes.Drain, node_pb2.DrainRequest(node_id="a", draining=True))
    assert (code, details) == ("NOT_FOUND", "node 'a' is not alive but LEFT: unregistered")


def test_conditions_are_set_and_removed_by_name_and_the_others_stay(cluster: Cluster) -> None:
    cluster.register(conditions=[condition("GpuHealthy"), condition("DiskFull", FALSE)])
    cluster.advance(5.0)
    node = set_conditions(cluster, condition("DiskFull", TRUE, "99 %"), condition("Cold"), remove=["GpuHealthy"])
    assert [(each.name, each.status, each.reason) for each in node.conditions] == [
        ("Cold", TRUE, ""),
        ("DiskFull", TRUE, "99 %"),
    ]
    assert node == cluster.node()


def test_the_time_of_a_condition_moves_only_when_its_status_changes(cluster: Cluster) -> None:
    cluster.register(conditions=[condition("DiskFull", FALSE)])
    cluster.advance(2.0)
    node = set_conditions(cluster, condition("DiskFull", FALSE, "50 %"))
    assert (node.conditions[0].since.seconds, node.conditions[0].reason) == (WALL, "50 %")
    cluster.advance(2.0)
    assert set_conditions(cluster, condition("DiskFull", TRUE)).conditions[0].since.seconds == WALL + 4


def test_conditions_of_another_incarnation_or_of_one_that_has_ended_are_refused(cluster: Cluster) -> None:
    cluster.register(incarnation=2)
    request = node_pb2.SetConditionsRequest(node_id="a", incarnation=1, conditions=[condition("Cold")])
    assert cluster.refused(cluster.nodes.SetConditions, request)[0] == "FAILED_PRECONDITION"
    cluster.unregister(incarnation=2)
    request = node_pb2.SetConditionsRequest(node_id="a", conditions=[condition("Cold")])
    assert cluster.refused(cluster.nodes.SetConditions, request)[0] == "FAILED_PRECONDITION"


def test_a_node_has_no_more_conditions_than_allowed(cluster: Cluster) -> None:
    cluster.register(conditions=[condition(f"c{number}") for number in range(MAX_CONDITIONS)])
    request = node_pb2.SetConditionsRequest(node_id="a", conditions=[condition("more")])
    code, details = cluster.refused(cluster.nodes.SetConditions, request)
    assert (code, details) == ("RESOURCE_EXHAUSTED", "node 'a' may have at most 64 conditions: remove some")
    set_conditions(cluster, condition("more"), remove=["c0"])


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ([condition("Suspect")], "conditions[0].name: 'Suspect' is set by the server alone"),
        ([condition("a"), condition("b"), condition("a")], "conditions[2].name: 'a' is there twice"),
        ([condition("a b")], "conditions[0].name: must be a letter"),
    ],
)
def test_conditions_that_can_not_be_are_refused(
    cluster: Cluster, conditions: list[node_pb2.Condition], message: str
) -> None:
    code, details = cluster.refused_registration(conditions=conditions)
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(message)
    cluster.register()
    request = node_pb2.SetConditionsRequest(node_id="a", conditions=conditions)
    code, details = cluster.refused(cluster.nodes.SetConditions, request)
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(message)


# -- the history -------------------------------------------------------------------------------------------------------


def test_each_end_is_in_the_history_with_its_reason_the_newest_first(cluster: Cluster) -> None:
    cluster.register("a", 1)
    cluster.register("a", 2)
    cluster.unregister("a", 2, "bye")
    cluster.register("b", 1)
    cluster.advance(3.0)
    cluster.die("b")
    endings = cluster.list_endings().endings
    assert [(each.node.node_id, each.node.incarnation, each.node.state) for each in endings] == [
        ("b", 1, DEAD),
        ("a", 2, LEFT),
        ("a", 1, REPLACED),
    ]
    assert "the rack burns" in endings[0].node.state_reason
    assert endings[0].time.seconds == WALL + 3
    assert endings[0].revision == cluster.node("b").revision
    assert [each.node.incarnation for each in cluster.list_endings(node_id="a").endings] == [2, 1]


def test_the_history_is_read_a_page_at_a_time(cluster: Cluster) -> None:
    for incarnation in range(1, 7):
        cluster.register("a", incarnation)
    first = cluster.list_endings(limit=2)
    assert ([each.node.incarnation for each in first.endings], first.more) == ([5, 4], True)
    last = cluster.list_endings(limit=3, before=first.endings[-1].revision)
    assert ([each.node.incarnation for each in last.endings], last.more) == ([3, 2, 1], False)


def test_the_history_is_bounded_and_loses_the_oldest(make: Callable[..., Cluster]) -> None:
    cluster = make(nodes=NodeSettings(max_endings=3))
    for incarnation in range(1, 8):
        cluster.register("a", incarnation)
    assert [each.node.incarnation for each in cluster.list_endings().endings] == [6, 5, 4]


def test_what_an_incarnation_owned_goes_with_it_in_one_revision(cluster: Cluster) -> None:
    cluster.register("a", 1)
    store = cluster.store
    store.commit_blocking(store.batch().put("kv", b"mine", b"1", node_owner("a", 1)))
    store.commit_blocking(store.batch().put("kv", b"others", b"1", node_owner("b", 1)))
    before = store.revision
    cluster.unregister("a", 1)
    assert (store.get("kv", b"mine"), store.get("kv", b"others") is None) == (None, False)
    changes = store.changes(before).changes
    assert {change.revision for change in changes} == {store.revision}
    assert sorted(change.table for change in changes) == ["endings", "kv", "nodes"]


# -- listings ----------------------------------------------------------------------------------------------------------


def test_nodes_are_listed_in_the_order_of_their_ids_a_page_at_a_time(cluster: Cluster) -> None:
    for node_id in ("c", "a", "e", "b", "d"):
        cluster.register(node_id)
    first = cluster.list_nodes(limit=2)
    assert ([node.node_id for node in first.nodes], first.more) == (["a", "b"], True)
    last = cluster.list_nodes(limit=3, start_after="b")
    assert ([node.node_id for node in last.nodes], last.more) == (["c", "d", "e"], False)
    assert last.revision == cluster.store.revision


def test_nodes_are_listed_by_state(cluster: Cluster) -> None:
    cluster.register("dead")
    cluster.die("dead")
    cluster.register("alive")
    cluster.register("left")
    cluster.unregister("left")
    assert [node.node_id for node in cluster.list_nodes(states=[DEAD]).nodes] == ["dead"]
    assert [node.node_id for node in cluster.list_nodes(states=[ALIVE, LEFT]).nodes] == ["alive", "left"]
    assert count_by_state(cluster) == {"DEAD": 1, "ALIVE": 1, "LEFT": 1}


def count_by_state(cluster: Cluster) -> dict[str, int]:
    async def count() -> dict[str, int]:
        return cluster.nodes.count_by_state()

    return cluster.run(cluster.node_loop, count)


def test_nodes_are_listed_by_labels_and_conditions(cluster: Cluster) -> None:
    cluster.register("a", labels={"zone": "1", "gpu": "yes"}, conditions=[condition("Cold")])
    cluster.register("b", labels={"zone": "1"}, conditions=[condition("Cold", FALSE)])
    cluster.register("c", labels={"zone": "2"})
    assert [node.node_id for node in cluster.list_nodes(labels={"zone": "1"}).nodes] == ["a", "b"]
    assert [node.node_id for node in cluster.list_nodes(labels={"zone": "1", "gpu": "yes"}).nodes] == ["a"]
    wanted = node_pb2.ConditionFilter(name="Cold", status=FALSE)
    assert [node.node_id for node in cluster.list_nodes(conditions=[wanted]).nodes] == ["b"]


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


def test_a_filter_that_few_nodes_pass_finds_them_among_many(cluster: Cluster) -> None:
    batch = cluster.store.batch()
    for number in range(1700):
        node = node_pb2.Node(node_id=f"n{number:04}", incarnation=1, state=ALIVE, labels={"rare": str(number % 800)})
        batch.put("nodes", node.node_id.encode(), node.SerializeToString())
    cluster.store.commit_blocking(batch)
    page = cluster.list_nodes(labels={"rare": "799"}, limit=1)
    assert ([node.node_id for node in page.nodes], page.more) == (["n0799"], True)
    page = cluster.list_nodes(labels={"rare": "799"}, start_after="n0799")
    assert ([node.node_id for node in page.nodes], page.more) == (["n1599"], False)


# -- what is checked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"node_id": ""}, "node_id: is required"),
        ({"node_id": "x" * 129}, "node_id: must be at most 128 bytes, got 129"),
        ({"node_id": "a b"}, "node_id: must be letters"),
        ({"node_id": "a\n"}, "node_id: must be letters"),
        ({"incarnation": 0}, "incarnation: is required"),
        ({"address": "nowhere"}, 'address: must be "host:port"'),
        ({"address": "host:0"}, "address: must have a port from 1 to 65535"),
        ({"address": "host:70000"}, "address: must have a port from 1 to 65535"),
        ({"address": "::1:80"}, 'address: must be "host:port"'),
        ({"host": node_pb2.Host(name="x" * 257)}, "host.name: must be at most 256 bytes, got 257"),
        ({"labels": {str(n): "" for n in range(65)}}, "labels: must have at most 64, got 65"),
        ({"labels": {"k": "v" * 1025}}, "labels['k']: must be at most 1,024 bytes, got 1,025"),
        ({"resources": {"gpu": float("nan")}}, "resources['gpu']: must be a finite number"),
    ],
)
def test_a_registration_out_of_bounds_is_refused_and_the_field_named(
    cluster: Cluster, fields: dict[str, Any], message: str
) -> None:
    code, details = cluster.refused_registration(**{"node_id": "a", "incarnation": 1, **fields})
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(message)
    assert not cluster.list_nodes().nodes


def test_every_method_checks_its_request(cluster: Cluster) -> None:
    for method, request, field in (
        (cluster.nodes.Unregister, node_pb2.UnregisterRequest(node_id="a"), "incarnation:"),
        (cluster.nodes.Drain, node_pb2.DrainRequest(), "node_id:"),
        (cluster.nodes.SetConditions, node_pb2.SetConditionsRequest(), "node_id:"),
        (cluster.nodes.GetNode, node_pb2.GetNodeRequest(), "node_id:"),
        (cluster.nodes.ListNodes, node_pb2.ListNodesRequest(limit=10_001), "limit:"),
        (cluster.nodes.ListEndings, node_pb2.ListEndingsRequest(limit=10_001), "limit:"),
    ):
        code, details = cluster.refused(method, request)
        assert code == "INVALID_ARGUMENT"
        assert details.startswith(field)


@pytest.mark.parametrize("address", ["", "host:1", "10.0.0.1:65535", "[::1]:7000", "[fe80::1%eth0]:7000"])
def test_an_address_may_be_empty_a_name_an_ipv4_or_an_ipv6(cluster: Cluster, address: str) -> None:
    cluster.register(address=address)
    assert cluster.node().address == address


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forget_after": -1.0}, "forget_after: must be a positive"),
        ({"forget_after": float("inf")}, "forget_after: must be a positive"),
        ({"max_nodes": 0}, "max_nodes: must be at least 1, got 0"),
        ({"max_endings": 0}, "max_endings: must be at least 1, got 0"),
    ],
)
def test_settings_that_can_not_work_are_refused_with_the_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NodeSettings(**settings)


# -- time --------------------------------------------------------------------------------------------------------------


def test_nodes_that_died_or_left_are_forgotten_in_the_end_and_stay_in_the_history(make: Callable[..., Cluster]) -> None:
    cluster = make(nodes=NodeSettings(forget_after=60.0))
    cluster.register("dies")
    cluster.die("dies")
    cluster.register("leaves")
    cluster.unregister("leaves")
    cluster.advance(30.0)
    assert len(cluster.list_nodes().nodes) == 2
    cluster.advance(40.0)
    cluster.wait_for(lambda: cluster.store.count("nodes") == 0)
    cluster.wait_for(lambda: count_by_state(cluster) == {})
    assert cluster.refused_heartbeat("dies")[0] == "NOT_FOUND"
    assert len(cluster.list_endings().endings) == 2
    cluster.register("dies")
    assert cluster.node("dies").state == ALIVE


def test_a_node_that_came_back_is_not_forgotten(make: Callable[..., Cluster]) -> None:
    cluster = make(nodes=NodeSettings(forget_after=10.0))
    cluster.register("a", 1)
    cluster.unregister("a", 1)
    cluster.advance(9.0)
    cluster.register("a", 2)
    for _ in range(10):
        cluster.advance(2.0)
        cluster.heartbeat("a", 2)
    assert cluster.node().state == ALIVE


# -- several calls at once, and failures of the store ------------------------------------------------------------------


def test_of_many_changes_of_one_node_at_once_none_is_lost(cluster: Cluster) -> None:
    cluster.register()

    async def all_at_once() -> None:
        calls = [
            answer(
                cluster.nodes.SetConditions,
                node_pb2.SetConditionsRequest(node_id="a", conditions=[condition(f"c{number}")]),
            )
            for number in range(20)
        ]
        calls.append(answer(cluster.nodes.Drain, node_pb2.DrainRequest(node_id="a", draining=True)))  # type: ignore[arg-type]
        await asyncio.gather(*calls)

    cluster.run(cluster.node_loop, all_at_once)
    node = cluster.node()
    assert {each.name for each in node.conditions} == {f"c{number}" for number in range(20)}
    assert node.draining


def test_a_change_goes_on_when_its_caller_has_gone(make: Callable[..., Cluster]) -> None:
    store = FlakyStore()
    cluster = make(store=store)

    async def call_and_go() -> None:
        store.gate = asyncio.Event()
        request = node_pb2.RegisterRequest(node_id="a", incarnation=1)
        context = FakeServicerContext(connection=cluster.connection_of("a"))
        task = asyncio.create_task(answer(cluster.nodes.Register, request, context))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        store.gate.set()

    cluster.run(cluster.node_loop, call_and_go)
    cluster.wait_for(lambda: cluster.store.count("nodes"))
    cluster.wait_for(lambda: cluster.detector().nodes == 1)
    assert cluster.node().state == ALIVE


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (StoreFullError("no space"), "RESOURCE_EXHAUSTED"),
        (StoreBusyError("too much waits"), "RESOURCE_EXHAUSTED"),
        (OutcomeUnknownError("no answer"), "ABORTED"),
        (StoreUnavailableError("no engine"), "UNAVAILABLE"),
        (StoreFencedError("another leads"), "UNAVAILABLE"),
        (StoreClosedError("closed"), "UNAVAILABLE"),
    ],
)
def test_what_the_store_can_not_do_ends_the_call_with_the_status_that_says_whether_to_repeat_it(
    make: Callable[..., Cluster], failure: StoreError, status: str
) -> None:
    store = FlakyStore()
    cluster = make(store=store)
    store.failure = failure
    assert cluster.refused_registration() == (status, str(failure))
    store.failure = None
    cluster.register()
    assert cluster.node().state == ALIVE


def test_a_change_of_unknown_outcome_that_was_done_is_found_out(make: Callable[..., Cluster]) -> None:
    store = FlakyStore()
    cluster = make(store=store, nodes=NodeSettings(forget_after=60.0))
    store.failure, store.commits_nevertheless = OutcomeUnknownError("no answer"), True
    assert cluster.refused_registration()[0] == "ABORTED"
    store.failure = None
    assert count_by_state(cluster) == {}
    cluster.advance(7.0)
    assert count_by_state(cluster) == {"ALIVE": 1}


# -- a new server ------------------------------------------------------------------------------------------------------


def test_after_a_restart_everything_is_as_it_was(make: Callable[..., Cluster]) -> None:
    first = make()
    first.register("alive", labels={"zone": "a"})
    first.register("left")
    first.unregister("left")
    before = first.list_nodes().nodes
    first.stop()
    second = make(store=first.store)
    assert second.list_nodes().nodes == before
    assert count_by_state(second) == {"ALIVE": 1, "LEFT": 1}
    second.heartbeat("alive")
    second.unregister("alive")
    assert [each.node.node_id for each in second.list_endings().endings] == ["alive", "left"]


# -- listeners ---------------------------------------------------------------------------------------------------------


def told(cluster: Cluster) -> list[tuple[str, str, int]]:
    events: list[tuple[str, str, int]] = []

    async def listen() -> None:
        for name in ("added", "removed", "dead"):
            observers = getattr(cluster.nodes.listeners, name)
            observers.add(lambda node, name=name: events.append((name, node.node_id, node.incarnation)))

    cluster.run(cluster.node_loop, listen)
    return events


def test_listeners_are_told_of_every_member_and_of_every_end_once(cluster: Cluster) -> None:
    events = told(cluster)
    cluster.register("a", 1)
    cluster.register("a", 1, labels={"new": "label"})
    drain(cluster)
    cluster.register("a", 2)
    cluster.die("a")
    cluster.register("b", 1)
    cluster.unregister("b", 1)
    cluster.unregister("b", 1)
    assert events == [
        ("added", "a", 1),
        ("removed", "a", 1),
        ("added", "a", 2),
        ("dead", "a", 2),
        ("removed", "a", 2),
        ("added", "b", 1),
        ("removed", "b", 1),
    ]


def test_a_listener_that_fails_keeps_nothing_from_the_others(cluster: Cluster) -> None:
    seen: list[str] = []

    async def listen() -> Callable[[], None]:
        cluster.nodes.listeners.added.add(lambda _: 1 / 0)
        return cluster.nodes.listeners.added.add(lambda node: seen.append(node.node_id))

    remove = cluster.run(cluster.node_loop, listen)
    cluster.register("a")
    remove()
    remove()
    cluster.register("b")
    assert seen == ["a"]


def test_before_somebody_judges_who_is_alive_no_node_can_register(cluster: Cluster) -> None:
    async def alone() -> NodeManager:
        return NodeManager(NodeSettings(), cluster.store, server_id="s", wall_clock=lambda: 0.0)

    manager = cluster.run(cluster.node_loop, alone)
    request = node_pb2.RegisterRequest(node_id="a", incarnation=1)
    assert cluster.refused(manager.Register, request) == ("UNAVAILABLE", "the server is starting; try again")
