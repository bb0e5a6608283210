"""What type checkers know of the test tools. mypy and pyright check it; nothing here runs."""

from typing import TYPE_CHECKING, Any, assert_type

import atoll
from atoll.testing import FakeServicerContext, ManualClock, serve

# pyright: reportUnnecessaryTypeIgnoreComment=true

if TYPE_CHECKING:
    import grpc.aio


class Amount:
    """A request."""


class Total:
    """A reply."""


class Counter:
    """A servicer, annotated as users do."""

    async def add(self, _request: Amount, _context: "grpc.aio.ServicerContext[Amount, Total]") -> Total:
        """A method of it."""
        raise NotImplementedError


class Placement(atoll.IoContextPolicy[Counter]):
    """Where it lives."""

    counter_io_context = atoll.dedicated(Counter)


async def a_fake_context_is_what_handlers_are_annotated_with() -> None:
    """Calls a method with it."""
    context = FakeServicerContext(timeout=5, metadata=[("key", "value"), ("raw-bin", b"value")], clock=ManualClock())
    assert_type(await Counter().add(Amount(), context), Total)
    FakeServicerContext(clock=atoll.IoContext("clock"))
    FakeServicerContext(timeout="5")  # type: ignore[arg-type]


async def serve_gives_a_channel() -> None:
    """Opens it with each kind of argument."""
    async with serve(Counter, policy=Placement, clock=ManualClock()) as channel:
        assert_type(channel, "grpc.aio.Channel")

    def register(_servicer: Counter, _server: Any) -> None: ...

    async with serve(Counter(), Counter, register=[register, None]):
        pass
