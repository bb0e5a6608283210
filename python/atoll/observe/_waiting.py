"""Loops whose modules wait for each other: calls through references that form a cycle, and have for too long."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from atoll.loop import AwaitedCall


@dataclass(frozen=True, slots=True)
class WaitingCycle:
    """Loops each of which waits for the next, and the last for the first.

    A cycle of calls alone does no harm: a coroutine that waits leaves its loop free. One that lasts usually has a lock
    in it, or a limit on how many handlers run, which the first call holds and the last one needs.

    Attributes:
        calls: The calls, one for each loop; the loop that one calls is the caller of the next.
    """

    calls: tuple[AwaitedCall, ...]

    @property
    def loops(self) -> tuple[str, ...]:
        """The names of the loops, the alphabetically first one first."""
        return tuple(call.caller for call in self.calls)

    def __str__(self) -> str:
        steps = ", ".join(
            f"{call.caller} waits for {call.method} on {call.loop} for {call.waited:.1f} s" for call in self.calls
        )
        return f"modules wait for each other: {steps}; look for a lock that is held across one of these calls"


def find_cycles(calls: Iterable[AwaitedCall], patience: float) -> Iterator[WaitingCycle]:
    """The cycles among calls that have waited longer than `patience` seconds, each once."""
    longest: dict[str, dict[str, AwaitedCall]] = {}
    for call in calls:
        if call.waited > patience:
            known = longest.setdefault(call.caller, {}).get(call.loop)
            if known is None or known.waited < call.waited:
                longest[call.caller][call.loop] = call
    for start in sorted(longest):
        yield from _cycles_from(start, longest)


def _cycles_from(start: str, longest: dict[str, dict[str, AwaitedCall]]) -> Iterator[WaitingCycle]:
    """The shortest cycle in which `start` is the first loop by name, if there is one."""
    paths: list[tuple[AwaitedCall, ...]] = [()]
    seen = {start}
    while paths:
        path = paths.pop(0)
        here = path[-1].loop if path else start
        for loop, call in longest.get(here, {}).items():
            if loop == start:
                yield WaitingCycle((*path, call))
                return
            if loop > start and loop not in seen:
                seen.add(loop)
                paths.append((*path, call))
