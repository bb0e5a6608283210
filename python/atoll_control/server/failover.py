"""One of several servers on one etcd: stands by, has a term when it is elected, and stands by again when that is over.

Each turn has an election of its own, for an election leads at most once, and ends with everything of it closed:

1. The standby takes the port, and tells whoever calls where the leader is.
2. When this server is elected, the store is loaded and the modules are made, while the standby still answers.
3. The standby gives the port to the term, which serves until the server is to stop or somebody else may lead.
4. The store is closed, then the leadership is given back: another server need not wait for the lease to run out, and
   nothing of this term is written after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import time  # noqa: TID251 - the wall clock, by which tokens expire
from typing import TYPE_CHECKING, Final

import structlog

from atoll.errors import StoreError
from atoll.store import Election, Store
from atoll_control.api.v1 import admin_pb2
from atoll_control.server.security import known_tokens, warn
from atoll_control.server.standby import Standby
from atoll_control.server.tables import TABLES
from atoll_control.server.term import Term, log_opened, reachable

if TYPE_CHECKING:
    from atoll.store import ElectionState, EtcdOptions
    from atoll_control.server.settings import ServerSettings
    from atoll_control.server.stopping import Stop
    from atoll_control.server.vitals import Vitals

_log = structlog.get_logger("atoll_control.server")

# Seconds until a server stands again whose store could not be loaded: another one may have its turn.
STAND_AGAIN_AFTER: Final = 2.0


async def serve_in_turns(
    settings: ServerSettings, etcd: EtcdOptions, server_id: str, stop: Stop, vitals: Vitals
) -> None:
    """Serves until asked to stop.

    Raises:
        SecuritySettingsError: a file of the security's settings can't be used.
        atoll.errors.BindError: the address is in use or not this machine's.
        ValueError: an option of etcd is wrong.
    """
    # Now, rather than when it is elected.
    known_tokens(settings.security, time.time)
    warn(settings.security, settings.listen)
    listen = settings.listen
    while not stop.asked.is_set():
        standby = Standby(settings, server_id)
        # The first turn may choose a free port, and the others keep it.
        listen = standby.bind(listen)
        advertised = settings.advertise or reachable(listen)
        election = Election.start(etcd, name=server_id, address=advertised)
        await _Turn(settings, server_id, listen, advertised, stop, vitals, standby, election).run()


class _Turn:
    """From standing by to the end of the term that follows, if one does."""

    def __init__(  # noqa: PLR0917 - a private class with one caller
        self,
        settings: ServerSettings,
        server_id: str,
        listen: str,
        advertised: str,
        stop: Stop,
        vitals: Vitals,
        standby: Standby,
        election: Election,
    ) -> None:
        self._settings = settings
        self._server_id = server_id
        self._listen = listen
        self._advertised = advertised
        self._stop = stop
        self._vitals = vitals
        self._standby = standby
        self._election = election
        self._lost = asyncio.Event()

    async def run(self) -> None:
        """Ends when the server is to stop, or when it has led."""
        async with contextlib.AsyncExitStack() as at_the_end:
            at_the_end.push_async_callback(self._election.resign)
            at_the_end.push_async_callback(self._standby.stop)
            await self._standby.start()
            self._vitals.up(f"standing by at {self._listen}")
            epoch = await self._stand()
            if epoch is None or await self._has_term(epoch, at_the_end):
                return
        # Others may stand meanwhile, for the leadership has been given back.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.asked.wait(), STAND_AGAIN_AFTER)

    async def _has_term(self, epoch: int, at_the_end: contextlib.AsyncExitStack) -> bool:
        """Leads; whether it could."""
        try:
            store = await asyncio.to_thread(Store.in_etcd, self._election, TABLES)
        except StoreError as problem:
            _log.error("store_not_loaded", epoch=epoch, problem=str(problem))
            return False
        at_the_end.push_async_callback(store.close)
        log_opened(store, etcd=self._settings.etcd.prefix if self._settings.etcd else "")
        at_the_end.enter_context(self._vitals.metrics.watching_store(store, self._settings.kv.max_total_bytes))
        following = asyncio.create_task(self._follow())
        at_the_end.callback(following.cancel)
        try:
            await self._lead(store)
        except StoreError as problem:
            # Before it served: the lead was lost while the modules were made, or the store failed.
            _log.error("term_not_begun", epoch=epoch, problem=str(problem))
            return False
        _log.info("term_ended", epoch=epoch)
        return True

    async def _lead(self, store: Store) -> None:
        """One term; the standby answers until its modules can."""
        term = Term(self._settings, self._server_id, self._vitals)
        async with term.modules(store, self._advertised):
            await self._standby.stop()
            term.bind(self._listen)
            await term.serve(self._listen, self._stop, self._lost)

    async def _stand(self) -> int | None:
        """Waits to be elected, and returns the epoch; None when the server is to stop."""
        _log.info("standing_by", address=self._listen, advertised=self._advertised, server_id=self._server_id)
        asked = asyncio.create_task(self._stop.asked.wait())
        try:
            state = self._election.state
            while state.role == "standby":
                self._tell(state)
                changed = asyncio.create_task(self._election.changed(state))
                await asyncio.wait({asked, changed}, return_when=asyncio.FIRST_COMPLETED)
                if not changed.done():
                    changed.cancel()
                    return None
                state = changed.result()
        finally:
            asked.cancel()
        if state.role != "leading":
            _log.warning("not_elected", problem=state.problem)
            return None
        self._standby.role = admin_pb2.SERVER_ROLE_RECOVERING
        self._standby.leader_address = ""
        _log.info("elected", epoch=state.epoch)
        return state.epoch

    def _tell(self, state: ElectionState) -> None:
        """Has the standby tell what is known of the leader."""
        # A key in this server's name is of a term of its own that is over: nobody is to be sent here until it is gone.
        leader = None if state.leader is None or state.leader.name == self._server_id else state.leader
        address = "" if leader is None else leader.address
        problem = state.problem or ""
        if problem != self._standby.problem and problem:
            _log.warning("etcd_not_reached", problem=problem)
        if address != self._standby.leader_address and leader is not None:
            _log.info("leader_seen", name=leader.name, address=address, epoch=leader.epoch)
        self._standby.leader_address, self._standby.problem = address, problem
        self._vitals.stands_by(address)

    async def _follow(self) -> None:
        """Says when somebody else may lead, or when nobody would notice any more that somebody does."""
        try:
            state = self._election.state
            while state.role == "leading":
                state = await self._election.changed(state)
            if state.role == "lost":
                _log.error("leadership_lost", epoch=state.epoch, problem=state.problem)
        except Exception:  # noqa: BLE001 - whatever it is, a term that nobody follows must not go on
            _log.exception("election_not_followed", remedy="the term ends, and this server stands by again")
        finally:
            self._lost.set()
