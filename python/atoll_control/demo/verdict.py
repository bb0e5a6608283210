"""What the demo proves, and when it counts as proven.

The criterion. Heartbeats count as unaffected by the slow module if, while it was slow,

- 99 of 100 of them were answered within half of the time for which one call of the slow module blocks, and within
  100 ms in any case. On the slow module's loop most of them would wait for longer than that.
- none failed, no node was marked dead, and none had to register again.

The slow handler must have been named, with the stack of its thread, while it kept its loop.

And the run must have been able to show it: at least 80 % of the heartbeats due were sent, the slow module was indeed
slow, the store worked before, and every value read was the one written.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atoll_control.demo.observation import Stuck
    from atoll_control.demo.samples import Summary

STALL_THRESHOLD: Final = 0.1
LATENCY_BOUND: Final = 0.100
MIN_SHARE_SENT: Final = 0.8


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What happened. Times in seconds."""

    nodes: int
    nodes_alive: int
    registered_again: int
    wrong_reads: int
    heartbeats: dict[str, Summary]
    kv: dict[str, Summary]
    heartbeats_due: int
    slow_module: str | None
    slow_kind: str
    block: float
    gil_enabled: bool = True
    one_loop: bool = False
    stalls: tuple[Stuck, ...] | None = None

    @property
    def named(self) -> Stuck | None:
        """A stall that names the slow module's handler, the one with the longest stack; None when there is none."""
        services = {"KvManager": "KvService.", "HealthMonitor": "HealthService."}
        prefix = services.get(self.slow_module or "", "-")
        found = [stuck for stuck in self.stalls or () if stuck.handler.startswith(prefix)]
        return max(found, key=lambda stuck: (len(stuck.stack), stuck.duration), default=None)


@dataclass(frozen=True)
class Check:
    """One part of the criterion.

    Attributes:
        name: what is claimed.
        passed: it is so.
        detail: the figures.
        premise: without it the run shows nothing, neither that heartbeats were affected nor that they were not.
        of_heartbeats: whether it is about them.
    """

    name: str
    passed: bool
    detail: str
    premise: bool = False
    of_heartbeats: bool = True


@dataclass(frozen=True)
class Verdict:
    """The outcome.

    Attributes:
        checks: the parts of the criterion.
        outcome: what it comes to, in one sentence.
        remark: what explains the outcome, if there is something to explain.
    """

    checks: tuple[Check, ...]
    outcome: str
    remark: str = ""

    @property
    def held(self) -> bool:
        """Every part of the criterion was met."""
        return all(check.passed for check in self.checks)


def duration(seconds: float) -> str:
    """For people: "871 µs", "1.2 ms", "213 ms", "2.7 s"."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if (value := seconds * factor) >= 1.0:
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"  # noqa: PLR2004 - two digits
    return "0"


def bound(block: float) -> float:
    """What 99 of 100 heartbeats have to stay below, given how long one call of the slow module blocks."""
    return min(LATENCY_BOUND, block / 2)


def judge(facts: Facts) -> Verdict:
    """Applies the criterion."""
    limit = bound(facts.block) if facts.slow_module else LATENCY_BOUND
    before, during = facts.heartbeats["healthy"], facts.heartbeats["slow"]
    sent = during.count / facts.heartbeats_due if facts.heartbeats_due else 1.0
    failed = before.failed + during.failed
    checks = [
        Check(
            "99 of 100 heartbeats are in time",
            during.count > 0 and during.p99 < limit,
            f"p99 {duration(during.p99)} in the second half (limit {duration(limit)}; {duration(before.p99)} "
            "in the first)",
        ),
        Check("no heartbeat failed", failed == 0, f"{failed} of {before.count + during.count:,} failed"),
        Check("every node is alive", facts.nodes_alive == facts.nodes, f"{facts.nodes_alive} of {facts.nodes}"),
        Check("no node had to register again", facts.registered_again == 0, f"{facts.registered_again} did"),
        Check(
            "the heartbeats due were sent",
            sent >= MIN_SHARE_SENT,
            f"{sent:.0%} of those due in the second half (at least {MIN_SHARE_SENT:.0%})",
            premise=True,
        ),
        Check(
            "the store worked before",
            facts.kv["healthy"].count > 0 and facts.kv["healthy"].failed == 0,
            f"{facts.kv['healthy'].failed} of {facts.kv['healthy'].count:,} calls failed in the first half",
            premise=True,
        ),
        Check("every value read was the one written", facts.wrong_reads == 0, f"{facts.wrong_reads} wrong reads"),
    ]
    if facts.slow_module:
        calls = during if facts.slow_module == "HealthMonitor" else facts.kv["slow"]
        checks.append(
            Check(
                f"{facts.slow_module} was slow",
                calls.count > 0 and calls.p50 >= facts.block / 2,
                f"its calls took p50 {duration(calls.p50)}, {calls.failed} of {calls.count:,} failed",
                premise=True,
            )
        )
    if facts.slow_module and facts.stalls is not None and facts.block > STALL_THRESHOLD * 1.5:
        named = facts.named
        seen = f"{named.handler} on loop {named.loop}, at {named.where or 'no stack'}" if named else "no stall was seen"
        checks.append(
            Check(
                f"{facts.slow_module}'s handler was named while it kept its loop",
                named is not None and (bool(named.stack) or sys.platform != "linux"),
                seen,
                of_heartbeats=False,
            )
        )
    return Verdict(tuple(checks), _outcome(facts, checks), _remark(facts, during, limit))


def _outcome(facts: Facts, checks: Sequence[Check]) -> str:
    missing = [check.name for check in checks if check.premise and not check.passed]
    affected = any(check.of_heartbeats and not (check.passed or check.premise) for check in checks)
    lost = facts.nodes - facts.nodes_alive
    nodes = f"{lost} of {facts.nodes} nodes were lost" if lost else f"all {facts.nodes} nodes stayed alive"
    if facts.slow_module is None:
        return f"The run was {'NOT ' if affected or missing else ''}healthy; {nodes}."
    if affected:
        return f"Heartbeats did NOT stay unaffected while {facts.slow_module} was slow; {nodes}."
    if missing:
        return f"The run shows nothing, for it is not true that {' and that '.join(missing)}."
    return f"Heartbeats stayed unaffected while {facts.slow_module} was slow, and {nodes}."


def _remark(facts: Facts, during: Summary, limit: float) -> str:
    if facts.slow_module is None:
        return "Nothing was made slow: the server was not started with --demo-controls. This shows a healthy run only."
    if during.p99 < limit and not during.failed:
        return ""
    alive = "every node stayed alive" if facts.nodes_alive == facts.nodes else "nodes were lost"
    if facts.slow_module == "HealthMonitor":
        return f"HealthMonitor itself was slow: its own heartbeats wait for it; {alive}."
    if facts.one_loop:
        return f"All modules shared one loop, as asked: heartbeats wait behind the slow module's calls; {alive}."
    if facts.slow_kind == "gil" and facts.gil_enabled:
        return (
            "A call into C that keeps the GIL stops every Python thread of its process, whatever loop it belongs to. "
            f"On a build with a GIL loops can't isolate that: heartbeats were delayed by it; {alive}."
        )
    return ""
