"""`atollctl nodes`: who belongs to the cluster, and why the server thinks so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from atoll_control.api.v1 import health_pb2, health_pb2_grpc, node_pb2, node_pb2_grpc
from atoll_control.cli.calling import (
    DEFAULT_SERVER,
    EXIT_CODES,
    USAGE,
    ServerOption,
    TimeoutOption,
    calling,
    fail,
)
from atoll_control.cli.output import (
    Output,
    OutputOption,
    page_through,
    print_fields,
    print_messages,
    seconds_of,
    time_of,
    warn_of_more,
)
from atoll_control.client import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(help="Shows and manages nodes.", no_args_is_help=True, epilog=EXIT_CODES)

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The node's id.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for people who look later.")]

COLUMNS = ["NODE", "STATE", "SINCE", "ADDRESS", "CONDITIONS", "REASON"]


def state_of(node: node_pb2.Node) -> str:
    """The state for people: in lower case, with what they want to know at a glance."""
    state = node_pb2.NodeState.Name(node.state).removeprefix("NODE_STATE_").lower()
    return f"{state}, draining" if node.draining and node.state == node_pb2.NODE_STATE_ALIVE else state


def conditions_of(node: node_pb2.Node) -> str:
    """The conditions in one line."""
    shown = (
        f"{condition.name}={node_pb2.ConditionStatus.Name(condition.status).removeprefix('CONDITION_STATUS_').title()}"
        for condition in node.conditions
    )
    return " ".join(shown)


def row_of(node: node_pb2.Node) -> list[str]:
    """A line of a table."""
    since = time_of(node.state_since)
    reason = node.state_reason or node.drain_reason
    return [node.node_id, state_of(node), since, node.address, conditions_of(node), reason]


def pairs(texts: list[str], option: str) -> dict[str, str]:
    """`KEY=VALUE` options as a dictionary."""
    found: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            fail(f"{option}: must be KEY=VALUE, got {text!r}", USAGE)
        found[key] = value
    return found


@app.command(name="list")
def list_nodes(
    state: Annotated[
        list[str] | None, typer.Option("--state", help="Only nodes in this state: alive, dead or left. Repeatable.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Only nodes with this label. Repeatable.")
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            metavar="NAME=STATUS",
            help="Only nodes with this condition: true, false or unknown. Repeatable.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 10_000,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Lists nodes in the order of their ids."""
    request = node_pb2.ListNodesRequest(labels=pairs(label or [], "--label"))
    for text in state or []:
        name = f"NODE_STATE_{text.upper()}"
        if name not in node_pb2.NodeState.DESCRIPTOR.values_by_name:
            fail(f"--state: must be alive, dead or left, got {text!r}", USAGE)
        request.states.append(node_pb2.NodeState.Value(name))
    for key, value in pairs(condition or [], "--condition").items():
        name = f"CONDITION_STATUS_{value.upper()}"
        if name not in node_pb2.ConditionStatus.DESCRIPTOR.values_by_name:
            fail(f"--condition: the status must be true, false or unknown, got {value!r}", USAGE)
        request.conditions.add(name=key, status=node_pb2.ConditionStatus.Value(name))
    with calling(server) as channel:
        stub = node_pb2_grpc.NodeServiceStub(channel)

        def page(count: int) -> tuple[Sequence[node_pb2.Node], bool]:
            request.limit = count
            listed = stub.ListNodes(request, timeout=timeout)
            if listed.nodes:
                request.start_after = listed.nodes[-1].node_id
            return listed.nodes, listed.more

        nodes, more = page_through(page, limit)
    print_messages(output, nodes, COLUMNS, (row_of(node) for node in nodes))
    warn_of_more(more, f"raise --limit {limit}")


@app.command()
def show(
    node: NodeArgument,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Shows everything that is recorded of a node."""
    with calling(server) as channel:
        found = node_pb2_grpc.NodeServiceStub(channel).GetNode(node_pb2.GetNodeRequest(node_id=node), timeout=timeout)
    told = found.node
    host = told.host
    fields = [
        ("node", f"{told.node_id}, incarnation {told.incarnation}"),
        ("state", state_of(told) + (f": {told.state_reason}" if told.state_reason else "")),
        ("since", time_of(told.state_since)),
        ("address", told.address or "-"),
        ("host", f"{host.name or '-'}, {host.os} {host.architecture}, {host.cpus} CPUs, {host.memory_bytes:,} bytes"),
    ]
    fields += [(f"label {key}", value) for key, value in sorted(told.labels.items())]
    fields += [(f"resource {key}", f"{value:g}") for key, value in sorted(told.resources.items())]
    fields += [
        (
            f"condition {condition.name}",
            node_pb2.ConditionStatus.Name(condition.status).removeprefix("CONDITION_STATUS_").title()
            + (f": {condition.reason}" if condition.reason else ""),
        )
        for condition in told.conditions
    ]
    print_fields(output, told, fields)


@app.command()
def explain(
    node: NodeArgument,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Shows why the server holds a node for alive, suspect or dead: heartbeats, probes, its own lag, the brake."""
    with calling(server) as channel:
        stub = health_pb2_grpc.HealthServiceStub(channel)
        told = stub.Explain(health_pb2.ExplainRequest(node_id=node), timeout=timeout)
    gaps = ", ".join(seconds_of(gap) for gap in told.gaps[:8]) or "-"
    fields = [
        ("node", f"{told.node_id}, incarnation {told.incarnation}"),
        ("verdict", told.verdict + (f": {told.reason}" if told.reason else "")),
        ("heartbeats", f"{told.heartbeats:,}, one every {seconds_of(told.heartbeat_interval)} is due"),
        ("last", f"{seconds_of(told.since_heartbeat)} ago; gaps before: {gaps}"),
        ("thresholds", f"suspect in {seconds_of(told.suspect_in)}, dead in {seconds_of(told.dead_in)}"),
        ("connection", "open" if told.connected else "closed"),
    ]
    for probe in told.probes:
        outcome = f"answered in {seconds_of(probe.round_trip)}" if probe.answered else probe.error or "not answered"
        fields.append(("probe", f"{seconds_of(probe.ago)} ago: {outcome}"))
    fields += detector_fields(told.detector)
    print_fields(output, told, fields)


def detector_fields(detector: health_pb2.Detector) -> list[tuple[str, str]]:
    """What is to be known of the detector as a whole."""
    held = f"{detector.held}, for {seconds_of(detector.held_for)}" if detector.held else "no"
    return [
        ("detector lag", f"{seconds_of(detector.lag)}, worst {seconds_of(detector.worst_lag)}"),
        ("local health", f"{detector.local_health} of 7 (0 is healthy), thresholds ×{detector.stretch:g}"),
        ("suspect after", seconds_of(detector.suspect_after)),
        ("dead after", seconds_of(detector.dead_after)),
        ("verdicts held", held),
        ("nodes", f"{detector.nodes:,}, {detector.suspects:,} of them suspect"),
        *([("observe only", "verdicts are logged, and not passed")] if detector.observe_only else []),
    ]


def _drain(node: str, reason: str, server: list[str], timeout: float, *, draining: bool) -> node_pb2.Node:
    with calling(server) as channel:
        request = node_pb2.DrainRequest(node_id=node, draining=draining, reason=reason)
        drained: node_pb2.Node = node_pb2_grpc.NodeServiceStub(channel).Drain(request, timeout=timeout).node
        return drained


@app.command()
def drain(
    node: NodeArgument,
    reason: ReasonOption = "",
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Says that a node is not to get new work. It stays alive."""
    told = _drain(node, reason, server, timeout, draining=True)
    print_fields(output, told, ((told.node_id, state_of(told)),))


@app.command()
def undrain(
    node: NodeArgument,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Says that a node may get new work again."""
    told = _drain(node, "", server, timeout, draining=False)
    print_fields(output, told, ((told.node_id, state_of(told)),))


@app.command(name="declare-dead")
def declare_dead(
    node: NodeArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is recorded with the death.")],
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Marks a node dead, for good: it comes back under a higher incarnation only. The log keeps who did it."""
    with calling(server) as channel:
        request = health_pb2.DeclareDeadRequest(node_id=node, reason=reason)
        health_pb2_grpc.HealthServiceStub(channel).DeclareDead(request, timeout=timeout)
    typer.echo(f"{node}  dead")


@app.command()
def endings(
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="Only of this node.")] = "",
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="At most this many, and those that came with the last of them.")
    ] = 100,
    output: OutputOption = Output.TABLE,
    server: ServerOption = DEFAULT_SERVER,
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
) -> None:
    """Lists nodes that died, left or were replaced, the newest first, with the reasons."""
    request = node_pb2.ListEndingsRequest(node_id=node)
    with calling(server) as channel:
        stub = node_pb2_grpc.NodeServiceStub(channel)

        def page(count: int) -> tuple[Sequence[node_pb2.NodeEnding], bool]:
            request.limit = count
            listed = stub.ListEndings(request, timeout=timeout)
            if listed.endings:
                request.before = listed.endings[-1].revision
            return listed.endings, listed.more

        found, more = page_through(page, limit)
    rows = (
        [
            time_of(ending.time),
            ending.node.node_id,
            str(ending.node.incarnation),
            state_of(ending.node),
            ending.node.state_reason,
        ]
        for ending in found
    )
    print_messages(output, found, ["TIME", "NODE", "INCARNATION", "STATE", "REASON"], rows)
    warn_of_more(more, f"name a node, or raise --limit {limit}")
