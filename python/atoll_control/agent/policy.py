"""Which module of the agent lives on which loop."""

from __future__ import annotations

import asyncio

from atoll import IoContextPolicy, dedicated
from atoll_control.agent.checks import Checks
from atoll_control.agent.membership import Membership


class AgentPolicy(IoContextPolicy[Membership | Checks]):
    """Heartbeats have a loop of their own: starting processes and reading what they print delays none."""

    membership_io_context = dedicated(Membership, name="membership")
    # Not uvloop, where that is installed: it forks to start a process, which copies the page tables of a process with
    # many threads and disturbs gRPC. asyncio's way, vfork, does neither.
    # Starting a process may take its time, which is of no harm here: it is no reason to restart the agent.
    checks_io_context = dedicated(
        Checks, name="checks", loop_factory=asyncio.new_event_loop, stall_threshold=2.0, counts_for_health=False
    )
