"""A cluster in virtual time around a `FailureDetector`: nodes, a network, and a server that may be stuck or stopped."""

from __future__ import annotations

import enum
import heapq
import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from atoll_control.server.detector import (
    BrakeOff,
    BrakeOn,
    DetectorSettings,
    Died,
    FailureDetector,
    Heard,
    Phase,
    Probe,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from atoll_control.server.detector import Action

ActionType = TypeVar("ActionType")


class Fate(enum.Enum):
    HEALTHY = enum.auto()
    KILLED = enum.auto()  # its operating system closes the connection and refuses probes
    CUT_OFF = enum.auto()  # nothing arrives from it any more, and probes time out
    MUTE = enum.auto()  # answers probes, sends no heartbeats
    RETURNING = enum.auto()  # healthy again, but its first heartbeat has not arrived yet


@dataclass(eq=False)
class Node:
    name: str
    incarnation: int
    delay: float
    interval: float
    fate: Fate = Fate.HEALTHY
    since: float = 0.0


class Cluster:
    """Runs what happens in the order of time. A node is told its interval with each heartbeat and goes by it.

    While the server is stuck, its transport goes on and stamps heartbeats. While it is stopped, they stay in the
    operating system's buffers. Both end with a late sweep, before or after what was queued is handed over.
    """

    def __init__(self, settings: DetectorSettings | None = None, *, seed: int = 0, begin: float = 1000.0) -> None:
        self.settings = settings or DetectorSettings()
        self.now = begin
        self.detector = FailureDetector(self.settings, self.now)
        self.nodes: dict[str, Node] = {}
        self.actions: list[tuple[float, Action]] = []
        self.deaths: dict[tuple[str, int], tuple[float, Died]] = {}
        self.probes_are_lost = False
        self.queued_first = True
        self._random = random.Random(seed)  # noqa: S311 - a simulation
        self._events: list[tuple[float, int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._busy_until = 0.0
        self._stopped = False
        self._sweep_due = self.now + self.settings.sweep_interval
        self._at(self._sweep_due, self._sweep, rank=1)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _at(self, when: float, what: Callable[[], None], *, rank: int = 0) -> None:
        heapq.heappush(self._events, (when, rank, next(self._order), what))

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            when, _, _, what = heapq.heappop(self._events)
            self.now = max(self.now, when)
            what()
        self.now = max(self.now, end)

    def stall(self, seconds: float, *, stopped: bool = False) -> None:
        """The loop is stuck for so long from now on, or the whole process is stopped."""
        self._busy_until = self.now + seconds
        self._stopped = stopped
        self.advance(seconds)

    def _sweep(self) -> None:
        if self.now < self._busy_until:
            self._at(self._busy_until, self._sweep, rank=1 if self.queued_first else -1)
            return
        for action in self.detector.sweep(self.now, self._sweep_due):
            self._take(action)
        self._sweep_due = self.now + self.settings.sweep_interval
        self._at(self._sweep_due, self._sweep, rank=1)

    def _take(self, action: Action) -> None:
        self.actions.append((self.now, action))
        if isinstance(action, Probe):
            self._answer(action)
        elif isinstance(action, Died):
            key = action.node, action.incarnation
            node = self.nodes[action.node]
            assert node.incarnation == action.incarnation, "a verdict on an incarnation that is not watched"
            assert node.fate is not Fate.HEALTHY, f"a healthy node died: {action.reason}"
            assert key not in self.deaths, "a second verdict on one incarnation"
            assert not self.detector.stats().brake.freezes, "a verdict while verdicts are frozen"
            self.deaths[key] = (self.now, action)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def add(self, *names: str, delay: float = 0.0) -> None:
        """Registers nodes whose heartbeats take up to `delay` seconds."""
        for name in names:
            previous = self.nodes.get(name)
            incarnation = 1 if previous is None else previous.incarnation + 1
            assert self.detector.register(name, incarnation, self.now) is Heard.ACCEPTED
            self.detector.connection_opened(name, incarnation)
            node = Node(name, incarnation, delay, self.detector.first_interval_for(name), since=self.now)
            self.nodes[name] = node
            self._at(self.now + node.interval, lambda node=node: self._send(node))  # type: ignore[misc]

    def _send(self, node: Node) -> None:
        if self.nodes.get(node.name) is not node:
            return
        if node.fate in {Fate.HEALTHY, Fate.RETURNING}:
            self._at(self.now + self._random.uniform(0.0, node.delay), lambda: self._arrive(node))
        self._at(self.now + node.interval, lambda: self._send(node))

    def _arrive(self, node: Node) -> None:
        if self.now < self._busy_until:
            if self._stopped:
                # Read by the transport when the process goes on, and handed over after that.
                self._at(self._busy_until, lambda: self._arrive(node), rank=0)
            else:
                arrived_at = self.now
                self._at(self._busy_until, lambda: self._hand_over(node, arrived_at), rank=0)
        else:
            self._hand_over(node, self.now)

    def _hand_over(self, node: Node, arrived_at: float) -> None:
        if self.nodes.get(node.name) is not node:
            return
        heard = self.detector.heartbeat(node.name, node.incarnation, arrived_at)
        if heard is Heard.ACCEPTED:
            node.interval = self.detector.interval_for(node.name)
            if node.fate is Fate.RETURNING:
                node.fate = Fate.HEALTHY
        else:
            assert (node.name, node.incarnation) in self.deaths

    def _answer(self, probe: Probe) -> None:
        node = self.nodes[probe.node]
        if node.fate is Fate.KILLED:
            self._outcome(probe, ok=False, error="no connection")
        elif node.fate is Fate.CUT_OFF or self.probes_are_lost:
            self._at(self.now + probe.timeout, lambda: self._outcome(probe, ok=False, error="no answer in time"))
        else:
            self._at(self.now + 0.001, lambda: self._outcome(probe, ok=True))

    def _outcome(self, probe: Probe, *, ok: bool, error: str = "") -> None:
        if self.now < self._busy_until:
            self._at(self._busy_until, lambda: self._outcome(probe, ok=ok, error=error))
        else:
            trip = 0.001 if ok else None
            self.detector.probe_result(probe.node, probe.incarnation, ok=ok, now=self.now, round_trip=trip, error=error)

    def _turn(self, names: Iterable[str], fate: Fate) -> None:
        for name in names:
            self.nodes[name].fate = fate
            self.nodes[name].since = self.now

    def kill(self, *names: str) -> None:
        self._turn(names, Fate.KILLED)
        for name in names:
            self._closed(self.nodes[name])

    def _closed(self, node: Node) -> None:
        if self.now < self._busy_until:
            self._at(self._busy_until, lambda: self._closed(node))
        else:
            self.detector.connection_closed(node.name, node.incarnation, self.now, by_peer=True)

    def cut_off(self, *names: str) -> None:
        self._turn(names, Fate.CUT_OFF)

    def mute(self, *names: str) -> None:
        self._turn(names, Fate.MUTE)

    def bring_back(self, *names: str) -> None:
        self._turn(names, Fate.RETURNING)

    def declare_dead(self, name: str) -> None:
        incarnation = self.nodes[name].incarnation
        assert self.detector.died_elsewhere(name, incarnation, "it is scrap", self.now)
        explanation = self.detector.explain(name, self.now)
        assert explanation is not None
        assert explanation.death is not None
        self.deaths[name, incarnation] = (self.now, explanation.death)

    def forget(self, name: str) -> None:
        del self.nodes[name]
        self.detector.forget(name, self.now)

    # -- what has come of it -------------------------------------------------------------------------------------------

    def phase(self, name: str) -> Phase:
        explanation = self.detector.explain(name, self.now)
        assert explanation is not None
        return explanation.phase

    def died_at(self, name: str) -> float:
        return self.deaths[name, self.nodes[name].incarnation][0]

    def death(self, name: str) -> Died:
        return self.deaths[name, self.nodes[name].incarnation][1]

    def dead(self) -> set[str]:
        return {name for name, _ in self.deaths}

    def said(self, kind: type[ActionType]) -> list[ActionType]:
        return [action for _, action in self.actions if isinstance(action, kind)]

    def said_at(self, kind: type[object]) -> list[float]:
        return [when for when, action in self.actions if isinstance(action, kind)]

    def alarms(self) -> list[BrakeOn | BrakeOff]:
        return [action for _, action in self.actions if isinstance(action, BrakeOn | BrakeOff)]


def names(count: int, prefix: str = "node") -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]
