"""What tests of services need: time that jumps."""

from atoll.testing._manual_clock import ManualClock

__all__ = ["ManualClock"]
