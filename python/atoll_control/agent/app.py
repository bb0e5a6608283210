"""The agent from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from typing import TYPE_CHECKING, Any

import structlog

from atoll import IoContextProvider
from atoll.observe import SystemdNotifier
from atoll_control.agent.checks import Checks
from atoll_control.agent.membership import Membership
from atoll_control.agent.policy import AgentPolicy

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from atoll_control.agent.check_process import Outcome
    from atoll_control.agent.settings import AgentSettings
    from atoll_control.agent.state import StateDirectory

_log = structlog.get_logger("atoll_control.agent")


async def run(settings: AgentSettings, state: StateDirectory) -> None:
    """Is a node until SIGTERM or SIGINT; a second signal ends it without a goodbye. On the main thread.

    Args:
        settings: what the agent is told.
        state: whose lock is held.

    Raises:
        AgentError: it can't be one, or not any more.
        OSError: the token's file can't be read.
        ValueError: the token can't be one.
    """
    with SystemdNotifier() as systemd:
        async with IoContextProvider(AgentPolicy) as provider:
            await provider.create(Membership, settings, state, systemd.status)
            node = provider.ref(Membership)

            def report(name: str, outcome: Outcome) -> None:
                node.post(Membership.report, name, outcome)

            with _signals() as (asked, hurry):
                life = asyncio.create_task(node.call(Membership.run))
                await provider.create(Checks, settings.checks, report)
                _log.info(
                    "agent_started",
                    node_id=state.node_id,
                    state_dir=str(state.path),
                    servers=list(settings.link.servers),
                    checks=[check.name for check in settings.checks],
                )
                # It has started; whether a server answers is another matter, and told in the status.
                systemd.ready()
                await _first_of(life, asked.wait())
                if asked.is_set():
                    systemd.stopping()
                    await node.call(Membership.leave, f"the agent on {socket.gethostname()} was stopped")
                    await _first_of(life, hurry.wait())
                if not life.done():
                    life.cancel()
                    await asyncio.wait({life})
                if not life.cancelled():
                    life.result()
    _log.info("agent_stopped", node_id=state.node_id)


@contextlib.contextmanager
def _signals() -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """Two events: the agent is asked to stop, and to stop at once."""
    asked, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask(by: str) -> None:
        _log.info("stopping_at_once" if asked.is_set() else "stopping", by=by)
        (hurry if asked.is_set() else asked).set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, ask, number.name)
    try:
        yield asked, hurry
    finally:
        # What is stopping already must not be cut short by another signal.
        for number in numbers:
            loop.add_signal_handler(number, _log.info, "already_stopping")


async def _first_of(life: asyncio.Task[None], event: Coroutine[Any, Any, object]) -> None:
    """Waits until either comes."""
    waiting = asyncio.create_task(event)
    try:
        await asyncio.wait({life, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
