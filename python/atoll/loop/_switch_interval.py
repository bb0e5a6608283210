"""How often threads pass the GIL on, while several loops share it.

| state | written by | read by | under |
|---|---|---|---|
| `_wanted`, `_before`, `_ours` | threads that enter and leave | the same | `_lock` |
"""

import contextlib
import logging
import math
import sys
import threading
from collections.abc import Iterator

_logger = logging.getLogger("atoll.loop")

_lock = threading.Lock()
_wanted: list[float] = []
_before = 0.0
_ours = 0.0


def gil_is_enabled() -> bool:
    """Whether threads take turns in running Python."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


@contextlib.contextmanager
def switch_interval(seconds: float) -> Iterator[None]:
    """Within the block, threads pass the GIL on at least every `seconds`.

    The shortest of all that are entered counts, in whatever order they are left; after the last one the interval is as
    it was before the first. An interval that somebody else has set meanwhile stays.
    """
    with _lock:
        _wanted.append(seconds)
        _apply()
    try:
        yield
    finally:
        with _lock:
            _wanted.remove(seconds)
            _apply()


def _apply() -> None:
    global _before, _ours  # noqa: PLW0603 - as global as the interval itself
    now = sys.getswitchinterval()
    changed_by_others = bool(_ours) and not math.isclose(now, _ours, abs_tol=1e-6)
    if not _ours:
        _before = now
    interval = min(_wanted, default=_before)
    if not changed_by_others and not math.isclose(now, interval, abs_tol=1e-9):
        sys.setswitchinterval(interval)
        _logger.info("the GIL's switch interval is now %g ms, it was %g ms", interval * 1e3, now * 1e3)
    if not _wanted:
        _ours = 0.0
    elif not changed_by_others:
        _ours = interval
