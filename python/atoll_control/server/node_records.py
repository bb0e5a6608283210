"""What is recorded of a node, and how it changes: pure functions on `node_pb2.Node`, and the sentences about it.

A record is stored without its revision, which only the store knows; reading puts it in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from atoll_control.api.times import timestamp
from atoll_control.api.v1 import node_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atoll.store import StoreRow

ALIVE: Final = node_pb2.NODE_STATE_ALIVE
DEAD: Final = node_pb2.NODE_STATE_DEAD
LEFT: Final = node_pb2.NODE_STATE_LEFT
REPLACED: Final = node_pb2.NODE_STATE_REPLACED

# Set by the server alone: TRUE while a node that is alive has been silent for too long.
SUSPECT: Final = "Suspect"


# -- rows --------------------------------------------------------------------------------------------------------------


def node_of(row: StoreRow) -> node_pb2.Node:
    """The node that a row of the table `nodes` holds."""
    node = node_pb2.Node.FromString(row.value)
    node.revision = row.revision
    return node


def ending_of(row: StoreRow) -> node_pb2.NodeEnding:
    """The ending that a row of the table `endings` holds."""
    ending = node_pb2.NodeEnding.FromString(row.value)
    ending.revision = ending.node.revision = row.revision
    return ending


def value_of(node: node_pb2.Node) -> bytes:
    """What is stored of a node."""
    node.ClearField("revision")
    return node.SerializeToString(deterministic=True)


def ending_key(number: int, node_id: str) -> bytes:
    """The key of an ending: endings sort by their number, and their node can be told without reading them."""
    return number.to_bytes(8, "big") + node_id.encode()


# -- changes -----------------------------------------------------------------------------------------------------------


def joined(request: node_pb2.RegisterRequest, before: node_pb2.Node | None, wall: float) -> node_pb2.Node:
    """A new incarnation. An operator's drain goes on: it is about the machine, not about one run of its agent."""
    node = node_pb2.Node(
        node_id=request.node_id,
        incarnation=request.incarnation,
        address=request.address,
        host=request.host if request.HasField("host") else None,
        labels=request.labels,
        resources=request.resources,
        state=ALIVE,
        state_since=timestamp(wall),
        registered_at=timestamp(wall),
    )
    if before is not None:
        node.draining, node.drain_reason = before.draining, before.drain_reason
    set_conditions(node, request.conditions, (), wall)
    return node


def registered_again(request: node_pb2.RegisterRequest, before: node_pb2.Node, wall: float) -> node_pb2.Node:
    """The same incarnation with what it says of itself now."""
    node = _copy(before)
    node.address = request.address
    node.ClearField("host")
    if request.HasField("host"):
        node.host.CopyFrom(request.host)
    node.labels.clear()
    node.labels.update(request.labels)
    node.resources.clear()
    node.resources.update(request.resources)
    set_conditions(node, request.conditions, (), wall)
    return node


def ended(before: node_pb2.Node, state: node_pb2.NodeState.ValueType, reason: str, wall: float) -> node_pb2.Node:
    """An incarnation that is not a member any longer."""
    node = _copy(before)
    node.state, node.state_reason = state, reason
    node.state_since.CopyFrom(timestamp(wall))
    set_conditions(node, (), (SUSPECT,), wall)
    return node


def ended_by(before: node_pb2.Node | None, after: node_pb2.Node, wall: float) -> node_pb2.Node | None:
    """The incarnation that a change of a record ends, as the history is to have it; None when it ends none."""
    if before is None or before.state != ALIVE:
        return None
    if after.incarnation != before.incarnation:
        return ended(before, REPLACED, f"incarnation {after.incarnation} has registered", wall)
    return None if after.state == ALIVE else after


def drained(before: node_pb2.Node, reason: str, *, draining: bool) -> node_pb2.Node:
    """A node that is to get no new work, or that may again."""
    node = _copy(before)
    node.draining, node.drain_reason = draining, reason if draining else ""
    return node


def with_conditions(
    before: node_pb2.Node, conditions: Iterable[node_pb2.Condition], remove: Iterable[str], wall: float
) -> node_pb2.Node:
    """A node with some of its conditions set, and some gone."""
    node = _copy(before)
    set_conditions(node, conditions, remove, wall)
    return node


def set_conditions(
    node: node_pb2.Node, conditions: Iterable[node_pb2.Condition], remove: Iterable[str], wall: float
) -> None:
    """Sets and removes conditions; `since` moves where the status changes."""
    by_name = {condition.name: condition for condition in node.conditions}
    for name in remove:
        by_name.pop(name, None)
    for wanted in conditions:
        known = by_name.get(wanted.name)
        same = known is not None and known.status == wanted.status
        by_name[wanted.name] = node_pb2.Condition(
            name=wanted.name,
            status=wanted.status,
            reason=wanted.reason,
            since=known.since if known is not None and same else timestamp(wall),
        )
    # The values may lie in the list that is about to be emptied.
    result = [by_name[name] for name in sorted(by_name)]
    kept = node_pb2.Node(conditions=result)
    del node.conditions[:]
    node.conditions.extend(kept.conditions)


def suspicion(node: node_pb2.Node) -> bool:
    """Whether it is recorded that the node is suspect."""
    return any(
        condition.name == SUSPECT and condition.status == node_pb2.CONDITION_STATUS_TRUE
        for condition in node.conditions
    )


def _copy(node: node_pb2.Node) -> node_pb2.Node:
    copy = node_pb2.Node()
    copy.CopyFrom(node)
    return copy


# -- sentences ---------------------------------------------------------------------------------------------------------


def state_name(node: node_pb2.Node) -> str:
    """A node's state without its prefix: "ALIVE"."""
    return node_pb2.NodeState.Name(node.state).removeprefix("NODE_STATE_")


def unknown(node_id: str) -> str:
    """There is no such node."""
    return f"node {node_id!r} is not known here: a node has to register; list the nodes to see which there are"


def has_ended(node: node_pb2.Node) -> str:
    """The incarnation is not a member any longer."""
    return (
        f"node {node.node_id!r}, incarnation {node.incarnation}, is {state_name(node)}: {node.state_reason}; this is "
        "final, register again with a higher incarnation"
    )


def other_incarnation(node: node_pb2.Node, incarnation: int) -> str:
    """Another incarnation is registered than the one that calls, or that is meant."""
    if incarnation > node.incarnation:
        return (
            f"node {node.node_id!r} is registered with incarnation {node.incarnation}, not yet with {incarnation}: "
            "register again with that one first"
        )
    return (
        f"incarnation {incarnation} of node {node.node_id!r} is stale: {node.incarnation} has registered since; "
        "register again with a higher one, or stop if another process has taken this node's place"
    )
