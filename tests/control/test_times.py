"""Between seconds and the protos' times: what goes in comes out."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from atoll_control.api.times import MAX_DURATION_SECONDS, duration, seconds, timestamp


@given(st.integers(min_value=-(10**6), max_value=10**6))
def test_milliseconds_come_back_as_they_went(milliseconds: int) -> None:
    number = milliseconds / 1000
    assert duration(number).ToNanoseconds() == milliseconds * 1_000_000
    assert seconds(duration(number)) == number


@pytest.mark.parametrize(
    ("number", "whole", "nanos"),
    [(2.3, 2, 300_000_000), (-0.5, 0, -500_000_000), (-1.25, -1, -250_000_000), (0.9999999996, 1, 0)],
)
def test_a_duration_is_rounded_to_nanoseconds_and_has_one_sign(number: float, whole: int, nanos: int) -> None:
    assert duration(number) == Duration(seconds=whole, nanos=nanos)


def test_a_time_is_rounded_to_nanoseconds_that_are_never_negative() -> None:
    assert timestamp(1.3) == Timestamp(seconds=1, nanos=300_000_000)
    assert timestamp(-0.25) == Timestamp(seconds=-1, nanos=750_000_000)
    assert timestamp(1_700_000_000.25) == Timestamp(seconds=1_700_000_000, nanos=250_000_000)


def test_the_longest_duration_is_one() -> None:
    assert duration(MAX_DURATION_SECONDS) == Duration(seconds=MAX_DURATION_SECONDS)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 1e30, MAX_DURATION_SECONDS + 1])
def test_what_is_no_duration_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="at most 315,576,000,000 s"):
        duration(number)
