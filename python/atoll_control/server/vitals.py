"""`Vitals`: how the server is, for those who run it: health checks, Prometheus and systemd.

Lives on the main loop and as long as the server, over all of its terms. The conditions of `/readyz` are `leader`,
`store` and `recovery`; whoever brings one about or ends it says so here.
"""

from __future__ import annotations

import contextlib
import time  # noqa: TID251 - the wall clock, for people and Prometheus
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, Self

import structlog

from atoll import IoContext
from atoll.observe import ObserveEndpoint, Readiness, SystemdNotifier
from atoll_control.server.metrics_collector import MetricsCollector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from atoll_control.server.metrics_collector import Question
    from atoll_control.server.settings import ServerSettings

LEADER: Final = "leader"
STORE: Final = "store"
RECOVERY: Final = "recovery"

_log = structlog.get_logger("atoll_control.server")


class Vitals:
    """The readiness of the server, its metrics, where both are told, and the line to systemd."""

    def __init__(self, settings: ServerSettings) -> None:
        """Tells nobody yet. Without an address and without systemd it never does."""
        self.readiness = Readiness()
        for condition in (LEADER, STORE, RECOVERY):
            self.readiness.set(condition, ok=False, reason="the server is starting")
        self.metrics = MetricsCollector(
            IoContext.current(), self.readiness, version=version("atoll"), wall_clock=time.time
        )
        self._settings = settings
        self._systemd = SystemdNotifier()
        self._at_the_end = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Tells whoever asks from now on.

        Raises:
            atoll.errors.BindError: an address can't be listened on.
        """
        settings = self._settings
        async with contextlib.AsyncExitStack() as opened:
            opened.enter_context(self._systemd)
            if settings.observe is not None:
                endpoint = ObserveEndpoint(
                    settings.observe,
                    liveness_threshold=settings.liveness_threshold,
                    readiness=self.readiness,
                    beyond_loopback=settings.observe_beyond_loopback,
                )
                opened.enter_context(endpoint)
                opened.enter_context(self.metrics.publishing(endpoint.publish))
                _log.info("observed", address=endpoint.address)
            self._at_the_end = opened.pop_all()
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Tells nobody any more."""
        await self._at_the_end.__aexit__(exception_type, exception, traceback)

    @contextlib.contextmanager
    def serving(self, modules: Mapping[str, Question], address: str) -> Iterator[None]:
        """The modules of a term answer at `address` within the block, and are asked for their numbers."""
        for condition in (RECOVERY, LEADER):
            self.readiness.set(condition, ok=True)
        self.up(f"serving at {address}")
        with self.metrics.leading(), self.metrics.asking(modules):
            try:
                yield
            finally:
                self.serves_no_more("its term has ended")

    def stands_by(self, leader: str) -> None:
        """Another server leads, `leader` if that is known, and this one waits: it has started well."""
        reason = f"standby of {leader}" if leader else "standby, and it is not known who leads"
        self.serves_no_more(reason)
        self.readiness.set(STORE, ok=False, reason=reason)
        self.up(reason)

    def serves_no_more(self, reason: str) -> None:
        """Whoever sends work is to send no more: the server stops, or another one leads."""
        for condition in (LEADER, RECOVERY):
            self.readiness.set(condition, ok=False, reason=reason)

    def up(self, status: str) -> None:
        """The process has started well, be it as the leader or as a standby: systemd is told so, and what it does."""
        self._systemd.ready(status)

    def stopping(self) -> None:
        """The process has been asked to stop."""
        self.serves_no_more("the server stops")
        self._systemd.stopping()
