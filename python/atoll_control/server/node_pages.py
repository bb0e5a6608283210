"""Pages of the listings of `NodeService`, read from the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from atoll_control.api.v1 import node_pb2
from atoll_control.server.node_records import ending_of, node_of
from atoll_control.server.pages import DEFAULT_PAGE, MAX_PAGE_BYTES
from atoll_control.server.tables import ENDINGS, NODES

if TYPE_CHECKING:
    from atoll.store import Store

# Rows are read so many at a time; between them other handlers get their turn.
_ROWS_AT_A_TIME: Final = 500


async def nodes_page(store: Store, request: node_pb2.ListNodesRequest) -> node_pb2.ListNodesResponse:
    """Nodes in the order of their ids, as they were at one revision."""
    limit = request.limit or DEFAULT_PAGE
    start = request.start_after.encode() + b"\0" if request.start_after else b""
    with store.snapshot() as snapshot:
        response = node_pb2.ListNodesResponse(revision=snapshot.revision)
        nodes = response.nodes
        is_filtered = bool(request.states or request.labels or request.conditions or request.HasField("draining"))
        size = 0
        while True:
            page = snapshot.scan(NODES, start, None, _ROWS_AT_A_TIME)
            for row in page.rows:
                node = node_of(row) if is_filtered else None
                if node is not None and not _matches(node, request):
                    continue
                if len(nodes) == limit or size >= MAX_PAGE_BYTES:
                    response.more = True
                    return response
                if node is not None:
                    nodes.append(node)
                else:
                    # Read where it is to stand: the copy takes longer than the reading.
                    node = nodes.add()
                    node.MergeFromString(row.value)
                    node.revision = row.revision
                size += len(row.value)
            if not page.more:
                return response
            start = page.rows[-1].key + b"\0"
            await asyncio.sleep(0)


def _matches(node: node_pb2.Node, request: node_pb2.ListNodesRequest) -> bool:
    if request.states and node.state not in request.states:
        return False
    if request.HasField("draining") and node.draining != request.draining:
        return False
    if request.labels and any(node.labels.get(name) != value for name, value in request.labels.items()):
        return False
    if request.conditions:
        statuses = {condition.name: condition.status for condition in node.conditions}
        return all(statuses.get(wanted.name) == wanted.status for wanted in request.conditions)
    return True


async def endings_page(store: Store, request: node_pb2.ListEndingsRequest) -> node_pb2.ListEndingsResponse:
    """Endings, the newest first.

    A page ends between two revisions, since the next one begins at a revision: where one revision has several endings,
    a page may be longer than its limit.
    """
    limit = request.limit or DEFAULT_PAGE
    node_id = request.node_id.encode()
    response = node_pb2.ListEndingsResponse()
    size = 0
    last_revision = 0
    end: bytes | None = None
    while True:
        page = store.scan(ENDINGS, b"", end, _ROWS_AT_A_TIME, reverse=True)
        for row in page.rows:
            if (request.before and row.revision >= request.before) or (node_id and row.key[8:] != node_id):
                continue
            is_full = len(response.endings) >= limit or size >= MAX_PAGE_BYTES
            if is_full and row.revision != last_revision:
                response.more = True
                return response
            response.endings.append(ending_of(row))
            last_revision = row.revision
            size += len(row.value)
        if not page.more:
            return response
        end = page.rows[-1].key
        await asyncio.sleep(0)
