"""Threads that do things to loops at the same moment."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

THREADS = 8
TIMEOUT = 60.0


@contextmanager
def at_once(*jobs: Callable[[], object]) -> Iterator[None]:
    """Runs each job on a thread of its own, all from one moment on, beside the block; raises what one of them did."""
    together = threading.Barrier(len(jobs))
    raised: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        together.wait(TIMEOUT)
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    if raised:
        raise raised[0]


def all_at_once(*jobs: Callable[[], object]) -> None:
    with at_once(*jobs):
        pass


def each(count: int, job: Callable[[int], object]) -> list[Callable[[], object]]:
    return [partial(job, number) for number in range(count)]


@contextmanager
def switching_often() -> Iterator[None]:
    """Within the block, threads pass the GIL on after a hundredth of a millisecond: they meet in more places."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)
