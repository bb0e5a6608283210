"""For tests of services: the real transport without a port, contexts without a transport, time that jumps.

    serve                    a servicer behind the real transport, for the length of a block
    FakeServicerContext      what an `async def` handler gets, for calling it directly
    FakeSyncServicerContext  the same for a plain `def` handler
    FakeConnection           the connection of either, which a test ends, delays and cuts off
    ManualClock              time that stands still until a test moves it

A pytest plugin comes with the package, `atoll.testing.pytest_plugin`: fixtures for contexts, a clock, and delays from a
seed.
"""

from atoll.testing._connection import FakeConnection
from atoll.testing._context import FakeServicerContext, FakeSyncServicerContext
from atoll.testing._manual_clock import ManualClock
from atoll.testing._serve import Register, serve

__all__ = [
    "FakeConnection",
    "FakeServicerContext",
    "FakeSyncServicerContext",
    "ManualClock",
    "Register",
    "serve",
]
