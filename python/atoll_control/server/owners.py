"""Who a row of the store goes with: a lease or an incarnation of a node. The store knows them as bytes."""

from __future__ import annotations

from typing import Final

_LEASE: Final = b"lease/"
_NODE: Final = b"node/"


def lease_owner(lease_id: int) -> bytes:
    """The owner of what goes with a lease."""
    return b"%s%d" % (_LEASE, lease_id)


def node_owner(node_id: str, incarnation: int) -> bytes:
    """The owner of what goes with an incarnation of a node."""
    return b"%s%s/%d" % (_NODE, node_id.encode(), incarnation)


def lease_of(owner: bytes) -> int:
    """The lease that an owner stands for; 0 for another owner."""
    return int(owner[len(_LEASE) :]) if owner.startswith(_LEASE) else 0


def is_private(lease_id: int) -> bool:
    """Whether a lease is that of one key with a time to live: its number is even. Also of leases that have ended."""
    return lease_id % 2 == 0


def shown_lease(owner: bytes) -> int:
    """The lease that clients see of an owner; 0 for a private one, and for another owner."""
    lease_id = lease_of(owner)
    return 0 if is_private(lease_id) else lease_id


def incarnation_of(owner: bytes) -> tuple[str, int]:
    """The node id and incarnation that an owner stands for; ("", 0) for another owner."""
    if not owner.startswith(_NODE):
        return "", 0
    node_id, _, incarnation = owner[len(_NODE) :].rpartition(b"/")
    return node_id.decode(), int(incarnation)
