"""`Conditions`: what is known of the node, and what of it the server has been told. One loop only; no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atoll_control.api.v1 import node_pb2

# A reason that changes while the status stays ("81 % full", "82 % full") is told this often at most, in seconds: each
# time is a durable change at the server, and watchers hear of it.
REASON_PERIOD: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Told:
    condition: node_pb2.Condition
    at: float


class Conditions:
    """Conditions by name."""

    def __init__(self) -> None:
        """Knows none."""
        self._known: dict[str, node_pb2.Condition] = {}
        self._told: dict[str, _Told] = {}

    def set(self, condition: node_pb2.Condition) -> bool:
        """What holds now; whether its status has changed."""
        before = self._known.get(condition.name)
        self._known[condition.name] = condition
        return before is None or before.status != condition.status

    def all(self) -> list[node_pb2.Condition]:
        """All that are known."""
        return list(self._known.values())

    def told(self, conditions: Iterable[node_pb2.Condition], now: float) -> None:
        """The server knows these."""
        for condition in conditions:
            self._told[condition.name] = _Told(condition, now)

    def forget_told(self) -> None:
        """It is not known what the server knows."""
        self._told.clear()

    def due(self, now: float) -> list[node_pb2.Condition]:
        """Those that the server is to be told now."""
        return [condition for name, condition in self._known.items() if self._due_at(name, now) <= now]

    def next_due(self, now: float) -> float | None:
        """When the next one is to be told, if nothing changes; None for never."""
        times = [self._due_at(name, now) for name in self._known]
        return min((time for time in times if time != float("inf")), default=None)

    def _due_at(self, name: str, now: float) -> float:
        condition, told = self._known[name], self._told.get(name)
        if told is None or told.condition.status != condition.status:
            return now
        return float("inf") if told.condition.reason == condition.reason else told.at + REASON_PERIOD
