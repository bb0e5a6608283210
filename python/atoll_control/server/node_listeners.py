"""`NodeListeners`: what other modules are told of nodes, on the loop of `NodeManager`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from atoll_control.api.v1 import node_pb2

T = TypeVar("T")

_log = structlog.get_logger("atoll_control.node_manager")


class Observers(Generic[T]):
    """Callbacks for one sort of event, called in the order in which they were added. One loop."""

    def __init__(self) -> None:
        """Begins with none."""
        self._callbacks: list[Callable[[T], object]] = []

    def add(self, callback: Callable[[T], object]) -> Callable[[], None]:
        """Has `callback` called with each event from now on. Returns what ends that; it may be called again."""
        # Of its own, so that a callback that was added twice is taken away once.
        entry: Callable[[T], object] = lambda event: callback(event)  # noqa: E731, PLW0108
        self._callbacks.append(entry)

        def remove() -> None:
            if entry in self._callbacks:
                self._callbacks.remove(entry)

        return remove

    def tell(self, event: T) -> None:
        """Calls them. One that raises does not keep the event from the others."""
        for callback in tuple(self._callbacks):
            try:
                callback(event)
            except Exception:  # noqa: BLE001 - whatever went wrong with one
                _log.exception("listener_failed")


class NodeListeners:
    """Who is told of nodes. What is handed over must not be changed; a callback that takes long posts to its own loop.

    Attributes:
        added: an incarnation has become a member.
        removed: an incarnation is not a member any longer, whatever the reason: its state says DEAD, LEFT or REPLACED.
        dead: the same of those that died, before `removed` is told.
    """

    def __init__(self) -> None:
        """Begins with nobody."""
        self.added: Observers[node_pb2.Node] = Observers()
        self.removed: Observers[node_pb2.Node] = Observers()
        self.dead: Observers[node_pb2.Node] = Observers()
