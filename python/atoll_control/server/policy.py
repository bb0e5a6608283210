"""Which module lives on which loop. Mistakes here fail when this file is imported."""

from __future__ import annotations

from typing import Final

from atoll import IoContextPolicy, dedicated
from atoll_control.server.admin_manager import AdminManager
from atoll_control.server.health_monitor import HealthMonitor
from atoll_control.server.kv_manager import KvManager
from atoll_control.server.lease_manager import LeaseManager
from atoll_control.server.node_manager import NodeManager
from atoll_control.server.task_manager import TaskManager
from atoll_control.server.token_manager import TokenManager
from atoll_control.server.watch_manager import WatchManager

Module = (
    NodeManager | HealthMonitor | KvManager | LeaseManager | WatchManager | TaskManager | AdminManager | TokenManager
)


# Seconds. Thousands of nodes send heartbeats one by one, each stamped on arrival: a loop that is woken for each spends
# most of its time on waking up.
HEARTBEATS_TOGETHER: Final = 0.002


class ServerPolicy(IoContextPolicy[Module]):
    """Modules on loops of their own, where none can delay another, but for two pairs.

    `KvManager` calls `LeaseManager` directly, in the midst of a put. `AdminManager` and `TokenManager` do little work.
    """

    node_manager_io_context = dedicated(NodeManager, name="node_manager")
    health_io_context = dedicated(HealthMonitor, name="health", wake_interval=HEARTBEATS_TOGETHER)
    kv_manager_io_context = dedicated(KvManager, LeaseManager, name="kv_manager")
    watch_io_context = dedicated(WatchManager, name="watch")
    task_manager_io_context = dedicated(TaskManager, name="task_manager")
    admin_io_context = dedicated(AdminManager, TokenManager, name="admin")


class OneLoopPolicy(IoContextPolicy[Module]):
    """All modules on one loop, as on a stock asyncio server: `atoll demo --one-loop` shows the difference."""

    shared_io_context = dedicated(
        NodeManager,
        HealthMonitor,
        KvManager,
        LeaseManager,
        WatchManager,
        TaskManager,
        AdminManager,
        TokenManager,
        name="shared",
    )
