"""Delays that are injected on purpose: a loop that never had any, one whose rules match nobody, one that has had them.

The last one has handlers delayed in each round, and the delays switched off, before its turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from atoll.chaos import DelayInjector
from benchmarks.overheads import peers
from benchmarks.overheads.pumped import PumpedLoop

if TYPE_CHECKING:
    from collections.abc import Iterator

FOR_NOBODY: Final = DelayInjector.parse("NoHandlerOfThisLoop=1000:2000,NorThis.One=5000:5000", seed=1)
FOR_ALL: Final = DelayInjector.parse("*=0:10", seed=1)

_SHORT: Final = 0.001


def rounds(count: int, seconds: float) -> Iterator[dict[str, float]]:
    """Yield the CPU time of ``never``, ``for_nobody`` and ``switched_off``, in ns per post and run."""
    loops = {name: PumpedLoop(name) for name in ("never", "for_nobody", "switched_off")}
    loops["for_nobody"].io_context.inject_delays(FOR_NOBODY)
    for number in range(count + 1):
        loops["switched_off"].io_context.inject_delays(FOR_ALL)
        loops["switched_off"].cost(_SHORT)
        loops["switched_off"].io_context.inject_delays(None)
        costs = {name: loops[name].cost(seconds).cpu for name in peers.in_turn(list(loops), number)}
        if number:  # the first round warmed up
            yield costs
    for loop in loops.values():
        loop.close()
