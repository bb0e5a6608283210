"""HealthMonitor: heartbeats, probes, verdicts, and what operators do. Time is set, never waited for."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Any

import pytest
import structlog.testing
from tests.control.cluster import ALIVE, DEAD, LEFT, Cluster, FlakyStore

from atoll.errors import (
    LoopClosedError,
    MailboxFull,
    NotLeaderError,
    OutcomeUnknownError,
    StoreFullError,
    StoreUnavailableError,
)
from atoll.testing import FakeServicerContext
from atoll_control.api.v1 import health_pb2, node_pb2
from atoll_control.server.calls import NOTHING_DONE, RefusedError
from atoll_control.server.detector import DetectorSettings
from atoll_control.server.health_monitor import LOOK_INTERVAL, HealthMonitor
from atoll_control.testing import answer, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from atoll import IoContext

# Beyond the grace after the start, in which nobody dies.
GRACE = 13.0


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
    """A cluster that could declare nodes dead already."""
    cluster = make()
    cluster.advance(GRACE)
    return cluster


def suspicion(cluster: Cluster, node_id: str = "a") -> node_pb2.ConditionStatus.ValueType | None:
    conditions = {condition.name: condition.status for condition in cluster.node(node_id).conditions}
    return conditions.get("Suspect")


def live(cluster: Cluster, seconds: float, *node_ids: str) -> None:
    """Lets time pass in which these nodes send heartbeats."""
    for _ in range(int(seconds / 2)):
        cluster.advance(2.0)
        for node_id in node_ids:
            cluster.heartbeat(node_id)


def cut_off(cluster: Cluster, *node_ids: str) -> None:
    """Nothing of these nodes arrives any more."""
    for node_id in node_ids:
        cluster.connection_of(node_id).round_trip = None


# -- heartbeats --------------------------------------------------------------------------------------------------------


def test_a_heartbeat_tells_the_interval_the_server_and_its_epoch(cluster: Cluster) -> None:
    cluster.register()
    reply = cluster.heartbeat()
    assert 1.8 <= reply.heartbeat_interval.ToTimedelta().total_seconds() <= 2.0
    assert (reply.server_id, reply.epoch) == ("server-1", cluster.store.epoch)


def test_heartbeats_are_never_written(cluster: Cluster) -> None:
    cluster.register()
    before = cluster.store.revision
    live(cluster, 20.0, "a")
    assert cluster.store.revision == before
    assert cluster.explain().heartbeats >= 10


def test_a_node_that_sends_heartbeats_stays_alive(cluster: Cluster) -> None:
    cluster.register()
    live(cluster, 60.0, "a")
    assert cluster.node().state == ALIVE
    assert suspicion(cluster) is None


def test_an_unknown_nodes_heartbeat_is_told_to_register(cluster: Cluster) -> None:
    code, details = cluster.refused_heartbeat("nobody")
    assert code == "NOT_FOUND"
    assert "'nobody'" in details
    assert "has to register" in details


def test_a_heartbeat_does_not_register_a_higher_incarnation(cluster: Cluster) -> None:
    cluster.register(incarnation=5)
    code, details = cluster.refused_heartbeat("a", 6)
    assert code == "FAILED_PRECONDITION"
    assert "not yet with 6: register again" in details


@pytest.mark.parametrize(("node_id", "incarnation", "field"), [("", 1, "node_id:"), ("a", 0, "incarnation:")])
def test_heartbeats_without_id_or_incarnation_are_refused(
    cluster: Cluster, node_id: str, incarnation: int, field: str
) -> None:
    code, details = cluster.refused_heartbeat(node_id, incarnation)
    assert code == "INVALID_ARGUMENT"
    assert details.startswith(field)


def test_every_method_checks_its_request(cluster: Cluster) -> None:
    for method, request, field in (
        (cluster.health.Explain, health_pb2.ExplainRequest(), "node_id:"),
        (cluster.health.Freeze, health_pb2.FreezeRequest(reason="x" * 1025), "reason:"),
        (cluster.health.Resume, health_pb2.ResumeRequest(reason="x" * 1025), "reason:"),
        (cluster.health.DeclareDead, health_pb2.DeclareDeadRequest(node_id="a"), "reason:"),
    ):
        code, details = cluster.refused(method, request)
        assert code == "INVALID_ARGUMENT"
        assert details.startswith(field)


def test_a_heartbeat_counts_from_its_arrival_however_late_the_loop_gets_to_it(cluster: Cluster) -> None:
    cluster.register()
    cluster.advance(4.0)
    cluster.heartbeat(arrived_at=cluster.clock.now() - 3.0)
    assert cluster.explain().since_heartbeat.ToTimedelta().total_seconds() == 3.0


# -- suspects and verdicts ---------------------------------------------------------------------------------------------


def test_a_silent_node_is_suspect_and_its_record_says_so(cluster: Cluster) -> None:
    cluster.register()
    cluster.advance(6.5)
    assert suspicion(cluster) == node_pb2.CONDITION_STATUS_TRUE
    assert cluster.node().state == ALIVE
    assert cluster.explain().verdict == "suspect"
    filtered = node_pb2.ConditionFilter(name="Suspect", status=node_pb2.CONDITION_STATUS_TRUE)
    assert [node.node_id for node in cluster.list_nodes(conditions=[filtered]).nodes] == ["a"]


def test_a_suspect_that_is_heard_of_is_alive_again(cluster: Cluster) -> None:
    cluster.register()
    cluster.advance(6.5)
    cluster.heartbeat()
    cluster.advance(0.5)
    assert suspicion(cluster) == node_pb2.CONDITION_STATUS_FALSE
    assert cluster.explain().verdict == "alive"


def test_a_node_that_is_cut_off_is_dead_within_the_deadline_and_its_death_says_why(cluster: Cluster) -> None:
    cluster.register()
    cut_off(cluster, "a")
    cluster.advance(12.0)
    node = cluster.node()
    assert node.state == DEAD
    assert node.state_reason.startswith("no heartbeat for 11.")
    assert "probe failed" in node.state_reason
    assert "no answer within 2.00 s" in node.state_reason
    (ending,) = cluster.list_endings().endings
    assert ending.node == node
    assert cluster.refused_heartbeat()[0] == "FAILED_PRECONDITION"


def test_a_node_whose_process_was_killed_is_dead_within_the_deadline(cluster: Cluster) -> None:
    cluster.register()
    cluster.connection_of("a").close()
    cluster.advance(4.5)
    assert suspicion(cluster) == node_pb2.CONDITION_STATUS_TRUE
    cluster.advance(7.5)
    assert cluster.node().state == DEAD
    assert "it closed its last connection" in cluster.node().state_reason


def test_a_node_that_answers_probes_is_not_dead_until_it_has_been_mute_for_long(cluster: Cluster) -> None:
    cluster.register()
    cluster.advance(30.0)
    assert cluster.node().state == ALIVE
    assert cluster.connection_of("a").pings > 5
    cluster.advance(6.0)
    assert cluster.node().state == DEAD
    assert "probe answered" in cluster.node().state_reason


def test_only_the_silent_node_dies(cluster: Cluster) -> None:
    cluster.register("silent")
    cluster.register("lively")
    cut_off(cluster, "silent", "lively")
    live(cluster, 14.0, "lively")
    assert {node.node_id: node.state for node in cluster.list_nodes().nodes} == {"lively": ALIVE, "silent": DEAD}


def test_a_heartbeat_on_a_new_connection_makes_the_old_one_worth_nothing(cluster: Cluster) -> None:
    cluster.register()
    old = cluster.connections.pop("a")
    live(cluster, 4.0, "a")
    old.close()
    cluster.advance(4.0)
    assert suspicion(cluster) is None
    explanation = cluster.explain()
    assert explanation.connected


def test_a_node_that_left_is_not_watched_any_more(cluster: Cluster) -> None:
    cluster.register()
    cluster.unregister()
    assert cluster.detector().nodes == 0
    cluster.advance(60.0)
    assert cluster.node().state == LEFT
    explanation = cluster.explain()
    assert (explanation.verdict, explanation.reason) == ("left", "unregistered")


def test_nobody_dies_after_the_module_stopped(cluster: Cluster) -> None:
    cluster.register()
    cut_off(cluster, "a")
    cluster.run(cluster.health_loop, cluster.health.stop)
    cluster.advance(60.0)
    assert cluster.node().state == ALIVE


# -- the server's own lag ----------------------------------------------------------------------------------------------


def test_a_stalled_server_declares_nobody_dead_who_could_not_be_heard(cluster: Cluster) -> None:
    cluster.register()
    cut_off(cluster, "a")
    cluster.stall(30.0)
    cluster.advance(0.25)
    assert cluster.detector().worst_lag.seconds >= 29
    assert cluster.node().state == ALIVE
    cluster.heartbeat()
    live(cluster, 30.0, "a")
    assert cluster.node().state == ALIVE


def test_heartbeats_that_waited_while_the_loop_was_stuck_are_handed_over_before_the_sweep(cluster: Cluster) -> None:
    cluster.register()
    cluster.advance(1.0)
    clock = cluster.clock
    order: list[str] = []
    detector: Any = cluster.health._detector

    def noting(name: str) -> Callable[..., Any]:
        method = getattr(detector, name)

        def noted(*arguments: Any) -> Any:
            order.append(name)
            return method(*arguments)

        return noted

    detector.sweep, detector.heartbeat = noting("sweep"), noting("heartbeat")

    def be_stuck() -> None:
        for _ in range(3):
            cluster.health_loop.post(detector.heartbeat, "a", 1, clock.now())
        clock.timers._advance_to(clock.now() + 5.0)

    cluster.health_loop.post(be_stuck)
    clock.settle()
    assert order[:4] == ["heartbeat", "heartbeat", "heartbeat", "sweep"]


# -- the brake ---------------------------------------------------------------------------------------------------------


def test_when_most_nodes_fall_silent_at_once_nobody_dies_and_an_alarm_is_raised(cluster: Cluster) -> None:
    names = [f"n{number}" for number in range(10)]
    for name in names:
        cluster.register(name)
    cut_off(cluster, *names[:7])
    with structlog.testing.capture_logs() as logs:
        live(cluster, 60.0, *names[7:])
    assert count_dead(cluster) == 0
    (alarm,) = [entry for entry in logs if entry["event"] == "verdicts_frozen"]
    assert (alarm["log_level"], alarm["by"]) == ("error", "brake")
    assert "7 of 10 connected nodes" in alarm["reason"]
    assert "7 of 10 connected nodes" in cluster.detector().held
    with structlog.testing.capture_logs() as logs:
        live(cluster, 4.0, *names)
    assert "verdicts_resumed" in [entry["event"] for entry in logs]
    assert count_dead(cluster) == 0


def count_dead(cluster: Cluster) -> int:
    return len(cluster.list_nodes(states=[DEAD]).nodes)


def test_an_operator_freezes_and_resumes_verdicts_and_the_log_has_who_and_why(cluster: Cluster) -> None:
    cluster.register()
    cut_off(cluster, "a")
    with structlog.testing.capture_logs() as logs:
        detector = cluster.call(cluster.health.Freeze, health_pb2.FreezeRequest(reason="moving racks")).detector
        assert "moving racks" in detector.held
        cluster.advance(60.0)
        assert cluster.node().state == ALIVE
        detector = cluster.call(cluster.health.Resume, health_pb2.ResumeRequest(reason="moved")).detector
        assert detector.held == ""
        cluster.advance(1.0)
    assert cluster.node().state == DEAD
    told = {entry["event"]: entry for entry in logs}
    assert told["verdicts_frozen"]["reason"] == "moving racks"
    assert told["verdicts_frozen"]["by"] == told["verdicts_resumed"]["by"] == cluster.connection_of("").peer


def test_an_operators_verdict_is_recorded_audited_and_final(cluster: Cluster) -> None:
    cluster.register()
    with structlog.testing.capture_logs() as logs:
        cluster.die()
    node = cluster.node()
    assert node.state == DEAD
    assert node.state_reason == f"declared dead by {cluster.connection_of('').peer!r}: the rack burns"
    events = [entry["event"] for entry in logs]
    assert "node_dead" in events
    assert "node_declared_dead" in events
    assert cluster.refused_heartbeat()[0] == "FAILED_PRECONDITION"
    assert cluster.explain().verdict == "dead"
    assert cluster.detector().nodes == 0


@pytest.mark.parametrize("command", ["Drain", "DeclareDead"])
def test_what_an_operator_wanted_is_audited_also_when_he_does_not_wait_for_it(
    make: Callable[..., Cluster], command: str
) -> None:
    store = FlakyStore()
    cluster = make(store=store)
    cluster.register()
    loop: IoContext = cluster.node_loop
    method: Any = cluster.nodes.Drain
    request: Any = node_pb2.DrainRequest(node_id="a", draining=True, reason="it burns")
    if command == "DeclareDead":
        loop, method = cluster.health_loop, cluster.health.DeclareDead
        request = health_pb2.DeclareDeadRequest(node_id="a", reason="it burns")
    calls: list[asyncio.Task[Any]] = []

    async def begin() -> None:
        context = FakeServicerContext(connection=cluster.connection_of(""))
        calls.append(asyncio.create_task(answer(method, request, context)))

    async def close_the_gate() -> None:
        store.gate = asyncio.Event()

    async def open_the_gate() -> None:
        assert store.gate is not None
        store.gate.set()

    async def give_up() -> None:
        calls[0].cancel()
        await asyncio.wait(calls)
        assert calls[0].cancelled()

    cluster.run(cluster.node_loop, close_the_gate)
    attempts = store.attempts
    with structlog.testing.capture_logs() as logs:
        cluster.run(loop, begin)
        cluster.wait_for(lambda: store.attempts > attempts)
        cluster.run(loop, give_up)
        cluster.run(cluster.node_loop, open_the_gate)
        cluster.wait_for(lambda: cluster.node().draining or cluster.node().state == DEAD)
    audit = [entry for entry in logs if entry["event"] in {"node_drained", "node_declared_dead"}]
    assert [(entry["node_id"], entry["by"], entry["reason"]) for entry in audit] == [
        ("a", cluster.connection_of("").peer, "it burns")
    ]


def test_who_is_refused_is_told_that_nothing_was_done_only_where_nothing_was(
    make: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FlakyStore()
    cluster = make(store=store)

    def register() -> tuple[str, Any]:
        async def ask() -> tuple[str, Any]:
            context = FakeServicerContext(connection=cluster.connection_of("a"))
            request = node_pb2.RegisterRequest(node_id="a", incarnation=1)
            refused = await refusal(cluster.nodes.Register, request, context)
            return refused.code.name, tuple(context.trailing_metadata() or ())

        return cluster.run(cluster.node_loop, ask)

    store.failure = StoreUnavailableError("no quorum")
    assert register() == ("UNAVAILABLE", NOTHING_DONE)
    store.failure = None

    def full(*_: object) -> None:
        raise MailboxFull("full")

    monkeypatch.setattr(HealthMonitor, "registered", full)
    assert register() == ("UNAVAILABLE", ())
    assert cluster.node().state == ALIVE


def test_an_operators_verdict_that_is_recorded_is_answered_also_when_the_store_may_not_be_read_any_more(
    make: Callable[..., Cluster],
) -> None:
    class LosingStore(FlakyStore):
        is_lost = False

        async def commit(self, batch: Any) -> Any:
            committed = await super().commit(batch)
            self.is_lost = loses
            return committed

        def get(self, *arguments: Any) -> Any:
            if self.is_lost:
                raise NotLeaderError("the lease has run out")
            return self.real.get(*arguments)

    loses = False
    store = LosingStore()
    cluster = make(store=store)
    cluster.register()
    loses = True
    request = health_pb2.DeclareDeadRequest(node_id="a", reason="it burns")
    assert cluster.call(cluster.health.DeclareDead, request).HasField("time")
    assert store.is_lost
    store.is_lost = False
    assert cluster.node().state == DEAD


def test_an_operators_verdict_on_who_is_not_alive_is_refused(cluster: Cluster) -> None:
    request = health_pb2.DeclareDeadRequest(node_id="a", reason="gone")
    assert cluster.refused(cluster.health.DeclareDead, request)[0] == "NOT_FOUND"
    cluster.register(incarnation=2)
    other = health_pb2.DeclareDeadRequest(node_id="a", incarnation=1, reason="gone")
    assert cluster.refused(cluster.health.DeclareDead, other)[0] == "FAILED_PRECONDITION"
    cluster.unregister(incarnation=2)
    code, details = cluster.refused(cluster.health.DeclareDead, request)
    assert code == "FAILED_PRECONDITION"
    assert "is LEFT" in details


def test_an_operators_verdict_that_can_not_be_recorded_changes_nothing(make: Callable[..., Cluster]) -> None:
    store = FlakyStore()
    cluster = make(store=store)
    cluster.register()
    store.failure = StoreFullError("no space left")
    request = health_pb2.DeclareDeadRequest(node_id="a", reason="gone")
    assert cluster.refused(cluster.health.DeclareDead, request) == ("RESOURCE_EXHAUSTED", "no space left")
    cluster.heartbeat()
    assert cluster.explain().verdict == "alive"


@pytest.mark.parametrize(
    ("problem", "code", "message", "nothing_done"),
    [
        (MailboxFull("4 wait"), "RESOURCE_EXHAUSTED", "the server has fallen behind: 4 wait; try again later", True),
        (LoopClosedError("it is closed"), "UNAVAILABLE", "the server stops: it is closed; look at the node", False),
    ],
    ids=["behind", "stops"],
)
def test_an_operators_verdict_that_does_not_reach_its_module_is_refused_with_what_to_do(
    cluster: Cluster, problem: Exception, code: str, message: str, *, nothing_done: bool
) -> None:
    class Unreachable:
        async def call(self, *_: object) -> None:
            raise problem

    cluster.register()
    unreachable: Any = Unreachable()
    nodes, cluster.health._nodes = cluster.health._nodes, unreachable
    request = health_pb2.DeclareDeadRequest(node_id="a", reason="r")
    with pytest.raises(RefusedError) as refused:
        cluster.run(cluster.health_loop, functools.partial(cluster.health._declare_dead, request, "me"))
    assert (refused.value.code.name, refused.value.nothing_done) == (code, nothing_done)
    assert cluster.refused(cluster.health.DeclareDead, request)[0] == code
    assert message in str(refused.value)
    cluster.health._nodes = nodes
    assert cluster.node().state == ALIVE


def test_with_observe_only_verdicts_are_logged_and_nobody_dies(make: Callable[..., Cluster]) -> None:
    cluster = make(detector=DetectorSettings(observe_only=True))
    cluster.advance(GRACE)
    cluster.register()
    cut_off(cluster, "a")
    with structlog.testing.capture_logs() as logs:
        cluster.advance(60.0)
    assert cluster.node().state == ALIVE
    assert [entry["event"] for entry in logs].count("node_would_have_died") == 1
    assert cluster.detector().observe_only


# -- verdicts and the store --------------------------------------------------------------------------------------------


def test_a_verdict_is_recorded_once_the_store_works_again_and_only_once(make: Callable[..., Cluster]) -> None:
    store = FlakyStore()
    cluster = make(store=store)
    cluster.advance(GRACE)
    cluster.register()
    cut_off(cluster, "a")
    store.failure = StoreFullError("no space left")
    cluster.advance(30.0, recorded=False)
    attempts = store.attempts
    assert attempts > 5
    assert cluster.node().state == ALIVE
    assert cluster.refused_heartbeat()[0] == "FAILED_PRECONDITION"
    store.failure = None
    cluster.advance(6.0, recorded=False)
    cluster.wait_for(lambda: cluster.store.count("endings"))
    assert cluster.node().state == DEAD
    assert len(cluster.list_endings().endings) == 1


def test_a_verdict_of_unknown_outcome_is_not_recorded_twice(make: Callable[..., Cluster]) -> None:
    store = FlakyStore()
    cluster = make(store=store)
    cluster.advance(GRACE)
    cluster.register()
    cut_off(cluster, "a")
    cluster.advance(8.0)
    store.failure, store.commits_nevertheless = OutcomeUnknownError("no answer"), True
    for _ in range(40):
        cluster.advance(0.25, recorded=False)
        time.sleep(0.01)
    assert cluster.node().state == DEAD
    store.failure = None
    cluster.advance(6.0)
    assert len(cluster.list_endings().endings) == 1


# -- a new server ------------------------------------------------------------------------------------------------------


def test_after_a_restart_nobody_dies_before_one_deadline_is_over(make: Callable[..., Cluster]) -> None:
    first = make()
    first.register("lively")
    first.register("gone")
    first.advance(7.0)
    first.stop()
    second = make(store=first.store)
    assert second.detector().nodes == 2
    assert "just started" in second.detector().held
    assert second.detector().held_for.seconds <= 12
    second.advance(0.5)
    # Both were suspect before.
    assert suspicion(second, "lively") == suspicion(second, "gone") == node_pb2.CONDITION_STATUS_FALSE
    cut_off(second, "gone")
    live(second, 10.0, "lively")
    assert second.node("gone").state == ALIVE
    live(second, 4.0, "lively")
    assert second.node("gone").state == DEAD
    assert second.node("lively").state == ALIVE


def test_a_member_of_whom_nobody_told_is_watched_in_the_end(cluster: Cluster) -> None:
    node = node_pb2.Node(node_id="quiet", incarnation=1, state=ALIVE)
    cluster.store.commit_blocking(cluster.store.batch().put("nodes", b"quiet", node.SerializeToString()))
    cluster.advance(LOOK_INTERVAL)
    assert cluster.detector().nodes == 1
    cluster.store.commit_blocking(cluster.store.batch().delete("nodes", b"quiet"))
    cluster.advance(LOOK_INTERVAL)
    assert cluster.detector().nodes == 0


def test_a_heartbeat_of_a_member_of_whom_nobody_told_is_taken(cluster: Cluster) -> None:
    node = node_pb2.Node(node_id="quiet", incarnation=1, state=ALIVE)
    cluster.store.commit_blocking(cluster.store.batch().put("nodes", b"quiet", node.SerializeToString()))
    assert cluster.heartbeat("quiet").server_id == "server-1"


# -- explaining --------------------------------------------------------------------------------------------------------


def test_explain_tells_heartbeats_probes_connection_and_what_comes_next(cluster: Cluster) -> None:
    cluster.register()
    live(cluster, 6.0, "a")
    explanation = cluster.explain()
    assert (explanation.node_id, explanation.incarnation, explanation.verdict) == ("a", 1, "alive")
    assert [gap.seconds for gap in explanation.gaps] == [2, 2, 2]
    assert (explanation.suspect_in.seconds, explanation.dead_in.seconds) == (6, 12)
    assert explanation.connected
    assert (explanation.detector.nodes, explanation.detector.suspects) == (1, 0)
    cut_off(cluster, "a")
    cluster.advance(9.0)
    explanation = cluster.explain()
    assert explanation.verdict == "suspect"
    assert (explanation.suspect_in.seconds, explanation.dead_in.seconds) == (0, 3)
    assert explanation.probes[0].error == "no answer within 2.00 s"
    assert not explanation.probes[0].answered
    assert explanation.since_received.seconds >= 9


def test_explaining_an_unknown_node_is_not_found(cluster: Cluster) -> None:
    code, details = cluster.refused(cluster.health.Explain, health_pb2.ExplainRequest(node_id="nobody"))
    assert code == "NOT_FOUND"
    assert "'nobody'" in details
