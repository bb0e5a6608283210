"""How often threads pass the GIL on, while somebody wants it shorter."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from atoll.loop import switch_interval

if TYPE_CHECKING:
    from collections.abc import Iterator

BEFORE = 0.004


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    """An interval of its own, so that a change shows."""
    original = sys.getswitchinterval()
    sys.setswitchinterval(BEFORE)
    yield
    sys.setswitchinterval(original)


def interval() -> float:
    return round(sys.getswitchinterval(), 6)


def test_it_is_set_logged_and_restored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="atoll.loop"):
        with switch_interval(0.0005):
            assert interval() == 0.0005
        assert interval() == BEFORE
    assert [record.getMessage() for record in caplog.records] == [
        "the GIL's switch interval is now 0.5 ms, it was 4 ms",
        "the GIL's switch interval is now 4 ms, it was 0.5 ms",
    ]


def test_it_is_restored_after_an_exception() -> None:
    with pytest.raises(KeyError), switch_interval(0.0005):
        raise KeyError
    assert interval() == BEFORE


def test_the_shortest_of_all_counts_in_whatever_order_they_end() -> None:
    first, second, third = ExitStack(), ExitStack(), ExitStack()
    first.enter_context(switch_interval(0.001))
    second.enter_context(switch_interval(0.0005))
    third.enter_context(switch_interval(0.002))
    assert interval() == 0.0005
    first.close()
    assert interval() == 0.0005
    second.close()
    assert interval() == 0.002
    third.close()
    assert interval() == BEFORE


def test_what_somebody_else_sets_meanwhile_stays_and_later_uses_work_again() -> None:
    with switch_interval(0.0005):
        sys.setswitchinterval(0.003)
        with switch_interval(0.0002):
            assert interval() == 0.003
    assert interval() == 0.003
    with switch_interval(0.0005):
        assert interval() == 0.0005
    assert interval() == 0.003
