"""What an operator's command may be refused with."""

from __future__ import annotations

from atoll.errors import AtollError


class UnknownNodeError(AtollError, LookupError):
    """You named a node, or an incarnation of it, that is not watched. List the nodes to see which are."""


class NodeEndedError(AtollError):
    """You declared a node dead that is dead already. Its verdict is final and stays as it is."""
