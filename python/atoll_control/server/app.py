"""The server from its start to its end: one that has its store alone, or one of several on etcd."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import structlog

from atoll.store import Store
from atoll_control.server.failover import serve_in_turns
from atoll_control.server.garbage import seldom_collected
from atoll_control.server.security import warn
from atoll_control.server.stopping import Stop
from atoll_control.server.tables import TABLES
from atoll_control.server.term import Term, log_opened, reachable
from atoll_control.server.vitals import Vitals

if TYPE_CHECKING:
    from atoll_control.server.settings import ServerSettings

_log = structlog.get_logger("atoll_control.server")


async def serve(settings: ServerSettings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        SecuritySettingsError: a file of the security's settings can't be used.
        atoll.errors.BindError: the address is in use or not this machine's.
        atoll.errors.StoreError: the data directory can't be used; the message says what to do.
    """
    server_id = os.urandom(8).hex()
    async with contextlib.AsyncExitStack() as at_the_end:
        at_the_end.enter_context(seldom_collected())
        stop = await at_the_end.enter_async_context(Stop(with_stdin=settings.exit_with_stdin))
        vitals = await at_the_end.enter_async_context(Vitals(settings))
        if settings.etcd is not None:
            await serve_in_turns(settings, settings.etcd, server_id, stop, vitals)
            _log.info("server_stopped", server_id=server_id)
            return
        term = Term(settings, server_id, vitals)
        # First of all: what fails most often fails before anything has started.
        address = term.bind(settings.listen)
        warn(settings.security, settings.listen)
        store = await open_store(settings)
        # After the loops, whose modules commit to it to the end.
        at_the_end.push_async_callback(store.close)
        at_the_end.enter_context(vitals.metrics.watching_store(store, settings.kv.max_total_bytes))
        async with term.modules(store, settings.advertise or reachable(address)):
            # Only a server that started is said to have stopped, and only when its loops have stopped, too.
            at_the_end.callback(_log.info, "server_stopped", server_id=server_id)
            await term.serve(address, stop, lost=asyncio.Event())


async def open_store(settings: ServerSettings) -> Store:
    """The store that the modules share; signals are heard while it loads."""
    if settings.data_dir is None:
        _log.warning(
            "store_in_memory",
            remedy="all that is stored is lost when this server ends; keep it with --data-dir DIRECTORY",
        )
        return Store.in_memory(TABLES)
    store = await asyncio.to_thread(Store.in_directory, settings.data_dir, TABLES, max_bytes=settings.max_data_bytes)
    log_opened(store, directory=str(settings.data_dir))
    return store
