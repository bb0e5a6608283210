"""Times between Python, which has seconds, and the protos, which have seconds and nanoseconds. Any thread."""

from __future__ import annotations

import math
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

# The longest time that a `Duration` holds: 10,000 years.
MAX_DURATION_SECONDS: Final = 315_576_000_000

_SECOND: Final = 1_000_000_000  # in nanoseconds


def duration(seconds: float) -> Duration:
    """So many seconds, rounded to nanoseconds.

    Raises:
        ValueError: they are not a number, or more than `MAX_DURATION_SECONDS`.
    """
    if not abs(seconds) <= MAX_DURATION_SECONDS:
        message = f"must be at most {MAX_DURATION_SECONDS:,} s, which a Duration holds, got {seconds:g} s"
        raise ValueError(message)
    whole, nanos = divmod(abs(_nanoseconds(seconds)), _SECOND)
    return Duration(seconds=whole, nanos=nanos) if seconds >= 0 else Duration(seconds=-whole, nanos=-nanos)


def timestamp(seconds: float) -> Timestamp:
    """A time in seconds since 1970, rounded to nanoseconds."""
    whole, nanos = divmod(_nanoseconds(seconds), _SECOND)
    return Timestamp(seconds=whole, nanos=nanos)


def seconds(duration: Duration) -> float:
    """How many seconds a duration has. Nothing is rounded that a float can hold."""
    return (duration.seconds * _SECOND + duration.nanos) / _SECOND


def _nanoseconds(seconds: float) -> int:
    # In two parts: a time of today in nanoseconds is more than a float holds exactly.
    whole = math.floor(seconds)
    return whole * _SECOND + round((seconds - whole) * _SECOND)
