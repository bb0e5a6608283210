"""What an endpoint answers (documented in `docs/top.md`), and what follows from two answers. Pure values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypedDict

# A lag from which a loop that seems to have nothing to do is held up: it waits for the GIL, say.
HELD_UP_AFTER = 0.1
# Without a monitor, a step that has taken so many seconds is taken for stuck.
STUCK_AFTER = 1.0
# A thread that is stuck and has so much of a processor computes; one that waits for the GIL wakes up now and then.
COMPUTES_FROM = 0.2


class Process(TypedDict):
    """The process."""

    pid: int
    uptime: float
    command: list[str]
    atoll: str


class Thread(TypedDict):
    """The thread that runs a loop."""

    id: int
    cpu: float | None


class Health(TypedDict):
    """What monitors say of a loop."""

    healthy: bool
    counts: bool
    missed: int
    latency: float
    largest_latency: float
    outstanding: float | None
    stalls: int


class Running(TypedDict):
    """The handler that runs."""

    handler: str
    age: float


class Spread(TypedDict):
    """Durations."""

    count: int
    sum: float
    p50: float
    p99: float
    max: float


class Handler(TypedDict):
    """The handlers of one name."""

    name: str
    total: int
    active: int
    running: int
    errors: int
    queue: Spread
    execution: Spread


class Time(TypedDict):
    """How a loop's time went."""

    uptime: float
    idle: float
    waiting: float
    running: float


class Stall(TypedDict):
    """A step that kept a loop's thread too long."""

    loop: str
    handler: str | None
    began: float
    duration: float
    over: bool
    stack: str | None
    stack_after: float


class Loop(TypedDict):
    """A loop."""

    name: str
    modules: list[str]
    runs: bool
    thread: Thread | None
    health: Health | None
    lag: float | None
    queued: dict[str, int]
    oldest_queued: float | None
    delayed: int
    guards: int
    running: Running | None
    stall: Stall | None
    time: Time
    total: int
    active: int
    errors: int
    handlers: list[Handler]
    handlers_left_out: int


class Top(TypedDict):
    """The whole answer."""

    version: int
    at: float
    process: Process
    loops: list[Loop]
    stalls: list[Stall]


class State(enum.IntEnum):
    """What a loop is doing, the worst first."""

    STUCK = 0
    UNHEALTHY = 1
    RUNNING = 2
    WAITING = 3
    IDLE = 4
    STOPPED = 5


@dataclass(frozen=True, slots=True)
class Row:
    """A loop as it is shown; durations in seconds.

    Attributes:
        key: Tells it from the others, in this answer and the next.
        loop: As it was told.
        state: What it is doing.
        lag: How long a handler that is posted now waits, as far as that is known.
        busy: How much of the time since the answer before went into handlers, 0 to 1; of its whole life at the first.
        held_up: How much of that time something was ready and no handler ran.
        cpu: How much of that time its thread computed; None where that is not known.
        rate: Handlers per second since the answer before; None at the first.
        last_stall: The latest that is known.
    """

    key: str
    loop: Loop
    state: State
    lag: float | None
    busy: float
    held_up: float
    cpu: float | None
    rate: float | None
    last_stall: Stall | None


def rows(now: Top, before: Top | None = None) -> list[Row]:
    """The loops of an answer, in the order of their construction; differences are to the answer `before`."""
    if before is not None and before["process"]["pid"] != now["process"]["pid"]:
        before = None
    earlier = {} if before is None else _by_key(before)
    stalls = {stall["loop"]: stall for stall in now["stalls"]}
    return [_row(key, loop, earlier.get(key), stalls.get(loop["name"])) for key, loop in _by_key(now).items()]


def _by_key(top: Top) -> dict[str, Loop]:
    found: dict[str, Loop] = {}
    seen: dict[str, int] = {}
    for loop in top["loops"]:
        name = loop["name"]
        seen[name] = number = seen.get(name, 0) + 1
        found[f"{number} {name}"] = loop
    return found


def _row(key: str, loop: Loop, before: Loop | None, last_stall: Stall | None) -> Row:
    time = loop["time"]
    if before is not None and before["time"]["uptime"] > time["uptime"]:
        before = None  # another loop of that name
    passed, running, waiting = time["uptime"], time["running"], time["waiting"]
    rate = None
    computed = _cpu_time(loop)
    if before is not None:
        passed -= before["time"]["uptime"]
        running -= before["time"]["running"]
        waiting -= before["time"]["waiting"]
        computed = _difference(computed, _cpu_time(before))
        rate = max(0, loop["total"] - before["total"]) / passed if passed else None
    return Row(
        key=key,
        loop=loop,
        state=_state(loop),
        lag=_lag(loop),
        busy=_fraction(running, passed),
        held_up=_fraction(waiting, passed),
        # A thread may have done something else before it ran the loop.
        cpu=None if before is None or computed is None else _fraction(computed, passed),
        rate=rate,
        last_stall=loop["stall"] or last_stall,
    )


def _cpu_time(loop: Loop) -> float | None:
    return None if loop["thread"] is None else loop["thread"]["cpu"]


def _difference(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or earlier is None else later - earlier


def _state(loop: Loop) -> State:
    health, running = loop["health"], loop["running"]
    if not loop["runs"]:
        return State.STOPPED
    if loop["stall"] is not None or (health is None and running is not None and running["age"] > STUCK_AFTER):
        return State.STUCK
    if health is not None and not health["healthy"]:
        return State.UNHEALTHY
    if running is not None:
        return State.RUNNING
    held_up = any(loop["queued"].values()) or (_lag(loop) or 0.0) > HELD_UP_AFTER
    return State.WAITING if held_up else State.IDLE


def _lag(loop: Loop) -> float | None:
    health = loop["health"]
    known = [loop["lag"], loop["oldest_queued"]]
    if health is not None:
        if loop["lag"] is None:
            known.append(health["latency"])
        if not health["healthy"]:
            known.append(health["outstanding"])
    return max((seconds for seconds in known if seconds is not None), default=None)


def _fraction(part: float, whole: float) -> float:
    return min(max(part / whole, 0.0), 1.0) if whole > 0 else 0.0
