"""One client's story, and two ways to run it: in virtual time on this thread, and on real threads."""

import asyncio
import contextlib
from collections.abc import Iterator

from examples.ordering_bug.leases import Leases, Listener
from examples.ordering_bug.sessions import FixedSessions, Sessions

import atoll
from atoll import chaos
from atoll.testing import ManualClock

LEASE = 0.05
LATE = 0.002
DELAYS = "*=0:1000"


async def keeps_its_session(sessions: atoll.ModuleRef[Sessions], leases: atoll.ModuleRef[Leases]) -> bool:
    """A client is away for two milliseconds longer than its lease, comes back, and looks whether it is known."""
    client = "player"
    await sessions.call(Sessions.open, client)
    await asyncio.sleep(LEASE + LATE)
    number = await sessions.call(Sessions.open, client)
    await asyncio.sleep(LEASE / 2)
    # The lease is alive, so the session must be.
    return await leases.call(Leases.renew, client, number) and await sessions.call(Sessions.is_open, client, number)


def run_in_virtual_time(
    seed: int | None = None, *, sessions_class: type[Sessions] = Sessions, delays: str = DELAYS
) -> bool:
    """Runs the story on one thread: a seed gives one order of events and no other. Without a seed, no delays."""
    clock = ManualClock()
    with _io_contexts(clock) as (for_sessions, for_leases, for_client):
        if seed is not None:
            injector = chaos.DelayInjector.parse(delays, seed=seed)
            for io_context in (for_sessions, for_leases, for_client):
                io_context.inject_delays(injector)
        leases = atoll.ModuleRef(for_leases, Leases(LEASE))
        sessions = atoll.ModuleRef(for_sessions, sessions_class(leases))
        leases.post(Leases.tell, _expiry(sessions))
        kept = for_client.submit(keeps_its_session, sessions, leases)
        clock.advance(3 * LEASE)
        return kept.result(timeout=0)


def _expiry(sessions: atoll.ModuleRef[Sessions]) -> Listener:
    """What `Leases` tells `Sessions` by: a post to the other loop."""
    return lambda client, number: sessions.post(Sessions.expire, client, number)


@contextlib.contextmanager
def _io_contexts(clock: ManualClock) -> Iterator[list[atoll.IoContext]]:
    made = [atoll.IoContext(name, clock=clock) for name in ("sessions", "leases", "client")]
    try:
        yield made
    finally:
        for io_context in made:
            io_context.close()


class Placement(atoll.IoContextPolicy[Sessions | Leases]):
    """How the service runs in production: each module on a thread of its own."""

    sessions = atoll.dedicated(Sessions)
    leases = atoll.dedicated(Leases)


async def run_on_threads(*, fixed: bool = False) -> bool:
    """Runs the story in real time. `ATOLL_TESTING_DELAY_US` delays handlers here, too, but no seed decides alone."""
    async with atoll.IoContextProvider(Placement) as provider:
        await provider.create(Leases, LEASE)
        leases = provider.ref(Leases)
        await provider.create(FixedSessions if fixed else Sessions, leases)
        sessions = provider.ref(Sessions)
        await leases.call(Leases.tell, _expiry(sessions))
        return await keeps_its_session(sessions, leases)
