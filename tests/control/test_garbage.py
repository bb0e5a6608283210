"""How often Python looks for garbage while a server runs."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import TYPE_CHECKING

import pytest

from atoll_control.server.garbage import THRESHOLDS, seldom_collected

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def nothing_frozen() -> Iterator[None]:
    """The suite freezes what it has collected, for its own speed."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    if frozen:
        gc.freeze()


def test_garbage_is_looked_for_seldom_and_not_among_what_was_there_before() -> None:
    before = gc.get_threshold()
    with seldom_collected():
        assert gc.get_threshold() == THRESHOLDS
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_it_is_as_before_when_the_server_fails() -> None:
    before = gc.get_threshold()
    with pytest.raises(OSError, match="in use"), seldom_collected():
        raise OSError("in use")
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_what_somebody_else_froze_stays_frozen() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with seldom_collected():
        assert gc.get_freeze_count() >= frozen
    assert gc.get_freeze_count() >= frozen


class Knot:
    """What only a look finds when nobody has it any more: it refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def test_a_cycle_is_found_all_the_same() -> None:
    # Without a GIL, Python waits until a quarter of all objects is new as well.
    most = THRESHOLDS[0] + 1000 if getattr(sys, "_is_gil_enabled", lambda: True)() else 4_000_000
    with seldom_collected():
        found = weakref.ref(Knot())
        assert found() is not None
        kept: list[list[object]] = []
        while found() is not None and len(kept) < most:
            # Many at a time: Python looks behind a call, and behind that of `found` the knot would be in use.
            kept += [[] for _ in range(1000)]
        assert found() is None
