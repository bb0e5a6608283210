"""`ObserveEndpoint`: what the process does, served over HTTP to its own machine, while every loop is stuck, too.

The serving is done by a native thread that needs neither the loops nor the GIL.

| state | written by | read by | under |
|---|---|---|---|
| `_running`, `_of_environment` | who starts and stops | the same, and the hooks at exit and after a fork | `_lock` |
| an endpoint's `_core` | who starts and stops; the hook after a fork | any | `_lock`; readers: none |
"""

import atexit
import logging
import os
import threading
from types import TracebackType
from typing import Final, Self

from atoll._core import EndpointCore
from atoll.errors import BindError
from atoll.observe._gil_gauge import hold_shared_gauge, let_go_shared_gauge
from atoll.observe._readiness import Readiness

OBSERVE_VARIABLE: Final = "ATOLL_OBSERVE"

_logger = logging.getLogger("atoll.observe")

_lock = threading.Lock()
_running: set["ObserveEndpoint"] = set()
_of_environment: "ObserveEndpoint | None" = None
_hooks_installed = False


class ObserveEndpoint:
    """Serves what the process does, to the processes of its own machine: `atoll top`, Prometheus, health checks.

    It answers without the GIL and without any loop, so also while all of them are stuck. Paths: `/metrics` (Prometheus
    text), `/top` (JSON, see `docs/top.md`), `/livez` and `/readyz` (see `docs/health.md`). It is for reading only.

    Over TCP every user of the machine can read it; a Unix socket can be read by the process's own user only.

    Use it as a context manager, or call `start()` and `stop()`; it may be started again. It goes on until it is stopped
    or the interpreter ends. A forked child does not have it, and may start its own. Any thread.

    Args:
        address: Where to listen: `"127.0.0.1:9464"`, `"localhost:0"`, `"[::1]:0"` (0 takes a free port) or
            `"unix:/run/atoll.sock"`. Nothing but loopback addresses and Unix sockets is accepted, unless
            `beyond_loopback` is said.
        liveness_threshold: Seconds that a loop whose health counts may be without progress before `/livez` fails; it
            needs a `LoopMonitor`, as a provider has one. None, the default, has `/livez` say that the process lives
            while it answers, so that state in memory is not thrown away for a slow handler.
        readiness: The conditions that `/readyz` tells, besides the health of the loops.
        beyond_loopback: Whether `address` may be any IP address, such as `"0.0.0.0:9464"`, for health checks and
            Prometheus on other machines; those are not told `/top`.
        gil_gauge: Whether it has a `GilGauge` run as long as it does, for `atoll_gil_wait_seconds`: a thread that asks
            for the GIL ten times a second. Observers share one; a build without a GIL has none.

    Raises:
        ValueError: When the threshold is not positive.
    """

    def __init__(
        self,
        address: str,
        *,
        liveness_threshold: float | None = None,
        readiness: Readiness | None = None,
        beyond_loopback: bool = False,
        gil_gauge: bool = True,
    ) -> None:
        if liveness_threshold is not None and not liveness_threshold > 0:
            raise ValueError(f"liveness_threshold={liveness_threshold!r} is not a positive number of seconds")
        self._wanted = address
        self._liveness_threshold = liveness_threshold
        self._readiness = readiness
        self._beyond_loopback = beyond_loopback
        self._gil_gauge = gil_gauge
        self._core: EndpointCore | None = None

    @property
    def address(self) -> str:
        """Where it listens, with the port that was taken; before the start, what was asked for."""
        core = self._core
        return self._wanted if core is None else core.address

    @property
    def is_running(self) -> bool:
        """Whether it listens."""
        return self._core is not None

    def publish(self, text: str) -> None:
        """Has `/metrics` tell numbers of the program's own as well, those that it published last. Any thread.

        They are told as they were then, whatever the loops and the GIL do meanwhile, until it stops: publish anew every
        few seconds, with the time among them, and have an alert on its age. Nothing happens while it does not run.

        Args:
            text: Prometheus' text, as `prometheus_client.generate_latest` makes it, of metrics whose names are not the
                framework's; at most 4 MiB. Nothing of the program's is told after an empty one.

        Raises:
            ValueError: When it is too long; what was published before is told further on.
        """
        if (core := self._core) is not None:
            core.publish(text)

    def start(self) -> None:
        """Listens from now on; while it does, a second call does nothing.

        Raises:
            BindError: When the address is malformed, not loopback, in use, or may not be listened on.
        """
        try:
            with _lock:
                self._open()
        except (OSError, ValueError) as error:
            raise BindError(str(error)) from None
        self._measure_the_gil()

    def _open(self) -> None:
        """Listens, under `_lock`; ValueError is for what is no address of ours, OSError for one that can't be had."""
        if self._core is None:
            self._core = EndpointCore(self._wanted, self._liveness_threshold, self._readiness, self._beyond_loopback)
            _running.add(self)
            _install_hooks()

    def _measure_the_gil(self) -> None:
        if self._gil_gauge:
            try:
                hold_shared_gauge(self)
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Closes everything; the file of a Unix socket is removed. A second call does nothing."""
        with _lock:
            core, self._core = self._core, None
            _running.discard(self)
        let_go_shared_gauge(self)
        if core is not None:
            core.stop()

    def __enter__(self) -> Self:
        """Starts it."""
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops it."""
        self.stop()


def endpoint_from_environment(*, gil_gauge: bool = True) -> ObserveEndpoint | None:
    """The process's endpoint, if the environment variable `ATOLL_OBSERVE` asks for one; started at the first call.

    Its value is an address as `ObserveEndpoint` takes it, in which `{pid}` stands for the process's id, so that the
    processes of one service can share a setting: `ATOLL_OBSERVE=unix:/run/atoll-{pid}.sock`. Where it listens is logged
    at level INFO. Later calls return the same endpoint, which goes on until it is stopped or the interpreter ends.

    An address that is in use, say by the process that this one replaces, does not keep a service from starting: it is
    logged at level ERROR, and the next call tries again. Any thread.

    Args:
        gil_gauge: As `ObserveEndpoint` takes it, for an endpoint that this call starts.

    Returns:
        The endpoint, or None when none is asked for or the address can't be had now.

    Raises:
        BindError: When the variable's value is no address that can be listened on by any process here.
    """
    global _of_environment  # noqa: PLW0603 - once per process
    value = os.environ.get(OBSERVE_VARIABLE, "").strip()
    if not value:
        return None
    try:
        with _lock:
            if _of_environment is not None and _of_environment.is_running:
                return _of_environment
            endpoint = ObserveEndpoint(value.replace("{pid}", str(os.getpid())), gil_gauge=gil_gauge)
            endpoint._open()  # noqa: SLF001 - its own module
            _of_environment = endpoint
    except ValueError as error:
        raise BindError(f"{OBSERVE_VARIABLE}={value}: {error}; unset it to serve nothing") from None
    except OSError as error:
        _logger.error(  # noqa: TRY400 - where it came from says nothing that the message does not
            "%s=%s: nothing observes this process: %s", OBSERVE_VARIABLE, value, error
        )
        return None
    endpoint._measure_the_gil()  # noqa: SLF001 - its own module
    _logger.info("atoll top %s shows what this process does (%s)", endpoint.address, OBSERVE_VARIABLE)
    return endpoint


def _install_hooks() -> None:
    """Has the interpreter stop what runs at its end, and a forked child forget it. Under `_lock`."""
    global _hooks_installed  # noqa: PLW0603 - once per process
    if not _hooks_installed:
        atexit.register(_stop_what_runs)
        os.register_at_fork(after_in_child=_forget_what_runs)
        _hooks_installed = True


def _stop_what_runs() -> None:
    with _lock:
        running = list(_running)
    for endpoint in running:
        endpoint.stop()


def _forget_what_runs() -> None:
    """In a forked child: the threads are the parent's, and the lock may be held for ever."""
    global _lock, _of_environment  # noqa: PLW0603 - they are another process's
    _lock = threading.Lock()
    _of_environment = None
    for endpoint in list(_running):
        core, endpoint._core = endpoint._core, None  # noqa: SLF001 - its own module
        if core is not None:
            core.close_in_child()
    _running.clear()
