"""Which loops are exported, and their snapshots. Any thread; nobody who exports a loop keeps it alive."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from atoll.loop._io_context import _contexts, _contexts_lock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atoll.loop import IoContext, LoopStats


class Sources:
    """The given loops, or all of the process; without those that are closed or gone."""

    def __init__(self, io_contexts: Iterable[IoContext] | None) -> None:
        self._given = None if io_contexts is None else [weakref.ref(io_context) for io_context in io_contexts]

    def io_contexts(self) -> list[IoContext]:
        """Those that can be observed now."""
        if self._given is None:
            with _contexts_lock:
                found = list(_contexts.values())
        else:
            found = [io_context for given in self._given if (io_context := given()) is not None]
        return [each for each in found if not each._closed]  # noqa: SLF001 - it says so to the framework only

    def snapshots(self) -> list[LoopStats]:
        """A snapshot of each."""
        return [io_context.stats() for io_context in self.io_contexts()]
