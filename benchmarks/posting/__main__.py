"""Measures all targets, round by round, and writes one line of JSON per measurement.

First ``{"targets": [...], "missing": {...}}``; then ``{"round", "target", "case", "ns"}``; then
``{"recording_ns": [...]}`` if atoll is there; then ``{"done": true}``.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from benchmarks.posting.targets import CallSoonTarget, SimpleQueueTarget, Target

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK: Final = 50_000
"""Posts before the consumer must have caught up: half of the queue that atoll allows by default."""

CASES: Final = {"1 thread": (1, False), "4 threads": (4, False), "1 thread, 1 argument": (1, True)}


def main() -> None:
    """Measure ``ROUNDS`` rounds of every target and case, and ``PAIRS`` pairs for the cost of recording."""
    rounds, pairs = int(sys.argv[1]), int(sys.argv[2])
    targets, missing = _make_targets()
    _tell(targets=[target.name for target in targets], missing=missing)
    for target in targets:
        target.start()
        _nanoseconds(target, threads=1, argument=False)
    for number in range(rounds):
        for case, (threads, argument) in CASES.items():
            for target in targets:
                cost = _nanoseconds(target, threads=threads, argument=argument)
                _tell(round=number, target=target.name, case=case, ns=cost)
    for target in targets:
        target.stop()
    if "atoll" not in missing:
        from benchmarks.posting import atoll_targets  # noqa: PLC0415 -- only where atoll is installed

        _tell(recording="starts")
        _tell(recording_ns=atoll_targets.recording_costs(pairs))
    _tell(done=True)


def _make_targets() -> tuple[list[Target], dict[str, str]]:
    found: list[Target] = []
    missing: dict[str, str] = {}
    for name, make in {"atoll": _atoll, "peers": _peers, "uvloop": _uvloop, "rloop": _rloop}.items():
        try:
            found += make()
        except ImportError as error:
            missing[name] = str(error)
    return found, missing


def _atoll() -> list[Target]:
    from benchmarks.posting import atoll_targets  # noqa: PLC0415 -- may be missing

    return [atoll_targets.PostTarget(), atoll_targets.BindTarget()]


def _peers() -> list[Target]:
    # asyncio wakes its loop through a socket at every post; one chunk of it takes as long as four of the others.
    return [SimpleQueueTarget(), CallSoonTarget("asyncio", asyncio.new_event_loop, chunks=1)]


def _uvloop() -> list[Target]:
    import uvloop  # noqa: PLC0415 -- may be missing

    return [CallSoonTarget("uvloop", uvloop.new_event_loop)]


def _rloop() -> list[Target]:
    import rloop  # noqa: PLC0415 -- may be missing

    return [CallSoonTarget("rloop", rloop.new_event_loop)]


def _nanoseconds(target: Target, *, threads: int, argument: bool) -> float:
    gc.collect()
    spent = sum(_chunk_nanoseconds(target, threads=threads, argument=argument) for _ in range(target.chunks))
    return spent / (target.chunks * (CHUNK // threads) * threads)


def _chunk_nanoseconds(target: Target, *, threads: int, argument: bool) -> int:
    """Time from the first post until the last has run."""
    all_ran = [threading.Event() for _ in range(threads)]
    posters = [
        threading.Thread(target=_post_chunk, args=(target, CHUNK // threads, argument, ran.set)) for ran in all_ran
    ]
    started = time.perf_counter_ns()
    for poster in posters:
        poster.start()
    for ran in all_ran:
        ran.wait()
    spent = time.perf_counter_ns() - started
    for poster in posters:
        poster.join()
    return spent


def _post_chunk(target: Target, count: int, argument: bool, done: Callable[[], None]) -> None:  # noqa: FBT001 -- args=
    target.post_many(count - 1, argument=argument)
    target.post_one(done)


def _tell(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
