"""`Table`: the watched nodes, which of them are suspect, and when each is to be looked at."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Final

from atoll_control.server.detector._watched import Phase, Watched

if TYPE_CHECKING:
    from atoll_control.server.detector._brake import Brake

# Entries of the heap that are no longer valid are dropped when they and the nodes outnumber twice the nodes by this
# many.
_SPARE_ENTRIES: Final = 1_000


class Table:
    """Nodes by id, and a heap of when to look at them, in which each living node has one valid entry.

    A heartbeat moves no entry. A node that is looked at and has been heard of meanwhile is entered again for later, so
    a healthy node costs one look per suspicion timeout, and a sweep costs what is due in it.
    """

    def __init__(self, brake: Brake) -> None:
        """Begins without nodes. Keeps `brake`'s counts."""
        self.nodes: dict[str, Watched] = {}
        self.suspects: dict[str, Watched] = {}
        self.living = 0
        self._brake = brake
        # (when to look at the node, the entry's serial number, the node)
        self._heap: list[tuple[float, int, Watched]] = []
        self._serials = itertools.count()

    def current(self, node: str, incarnation: int) -> Watched | None:
        """The node, if this incarnation of it is watched and not dead."""
        watched = self.nodes.get(node)
        if watched is None or watched.incarnation != incarnation or watched.death is not None:
            return None
        return watched

    def add(self, watched: Watched) -> None:
        """Adds a living node, in the place of the one that has its id."""
        if (previous := self.nodes.get(watched.node)) is not None:
            self.retire(previous)
        self.nodes[watched.node] = watched
        self.living += 1
        self.count(watched, 1)

    def remove(self, watched: Watched) -> None:
        """Forgets a node, living or dead."""
        self.retire(watched)
        del self.nodes[watched.node]

    def retire(self, watched: Watched) -> None:
        """Takes a node out of everything but the look-up by id, before it is dead or gone."""
        if watched.death is None:
            self.living -= 1
            self.count(watched, -1)
        self.suspects.pop(watched.node, None)
        watched.entry = -1

    def count(self, watched: Watched, sign: int) -> None:
        """Takes a node out of the brake's counts (-1) before they change, or puts it in (1) afterwards."""
        if watched.connected:
            self._brake.connected += sign
            if watched.phase is Phase.SUSPECT and not watched.released:
                self._brake.suspects += sign

    def look(self, watched: Watched, at: float) -> None:
        """Look at the node at that time, and not before."""
        watched.entry = serial = next(self._serials)
        watched.looked_at = at
        heapq.heappush(self._heap, (at, serial, watched))
        if len(self._heap) > 2 * len(self.nodes) + _SPARE_ENTRIES:
            self._heap = [entry for entry in self._heap if entry[2].entry == entry[1]]
            heapq.heapify(self._heap)

    def look_sooner(self, watched: Watched, at: float) -> None:
        """Look at the node at that time if it would have been later."""
        if at < watched.looked_at:
            self.look(watched, at)

    def next_due(self, now: float) -> Watched | None:
        """A node that is to be looked at, and entered again; None when there are no more."""
        while self._heap and self._heap[0][0] <= now:
            _, serial, watched = heapq.heappop(self._heap)
            if watched.entry == serial:
                return watched
        return None
