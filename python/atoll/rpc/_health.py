"""`grpc.health.v1`, answered by the transport: what can be set, and what an application adds to it.

A service is SERVING while its loops keep up; a loop that is stuck longer than the threshold makes its services
NOT_SERVING, and others stay SERVING. Neither the answer nor the watching needs a loop or the GIL.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from atoll._core import ServerCore
from atoll.loop import IoContext

WHOLE_SERVER: Final = ""


@dataclass(frozen=True, kw_only=True)
class HealthOptions:
    """When a loop counts as stuck; durations in seconds.

    Attributes:
        threshold: How long a loop may keep a probe waiting before its services are NOT_SERVING.
        liveness_threshold: The same for the name `liveness`, which is for whoever restarts the process; None, the
            default, means that it is always SERVING, so that state in memory is not thrown away for a slow handler.
        interval: Between two looks at the loops.
        recover_after: How many probes in a row must be in time before the services are SERVING again.

    Raises:
        ValueError: When a duration is not positive, or `recover_after` is below one.
    """

    threshold: float = 5.0
    liveness_threshold: float | None = None
    interval: float = 0.25
    recover_after: int = 3

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("threshold", "liveness_threshold", "interval"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"HealthOptions({name}={value!r}): it is a duration in seconds, more than 0")
        if self.recover_after < 1:
            raise ValueError(f"HealthOptions(recover_after={self.recover_after!r}): it is a number of probes, from 1")


@dataclass(frozen=True)
class HealthSpec:
    """How health is told, as it crosses into Rust: the options, and the loops of each service."""

    threshold: float
    liveness_threshold: float | None
    interval: float
    recover_after: int
    services: tuple[tuple[str, tuple[IoContext, ...]], ...]


class ServerHealth:
    """What the application says of its services' health: `server.health`. Any thread.

    What it says counts until it takes it back, or the server stops, which makes everything NOT_SERVING.
    """

    def __init__(self, core: ServerCore, options: HealthOptions | None) -> None:
        """Made by a server."""
        self._core = core
        self._options = options
        # Said before the start.
        self._said: dict[str, bool | None] = {}

    @property
    def is_served(self) -> bool:
        """Whether the server was made with `health=True`, or options of it."""
        return self._options is not None

    def set_serving(self, service: str, *, serving: bool | None) -> None:
        """Says whether a service is serving, whatever its loops do; None leaves it to them again.

        Args:
            service: Its full name, such as `package.Counter`; empty for the whole server. One that the server does not
                have gets a status by this.
            serving: True is SERVING, False NOT_SERVING.

        Raises:
            RuntimeError: When the server was made without `health=True`.
        """
        if self._options is None:
            raise RuntimeError("this server does not tell its health: make it with rpc.server(health=True)")
        self._said[service] = serving
        self._core.say_health(service, serving)

    def _spec(self, places: Mapping[str, Iterable[IoContext]], whole: Iterable[IoContext]) -> HealthSpec | None:
        if self._options is None:
            return None
        services = {name: tuple(loops) for name, loops in places.items()} | {WHOLE_SERVER: tuple(whole)}
        return HealthSpec(
            threshold=self._options.threshold,
            liveness_threshold=self._options.liveness_threshold,
            interval=self._options.interval,
            recover_after=self._options.recover_after,
            services=tuple(services.items()),
        )

    def _started(self) -> None:
        for service, serving in self._said.items():
            self._core.say_health(service, serving)


def health_options(health: bool | HealthOptions) -> HealthOptions | None:  # noqa: FBT001 - a switch, or more than that
    """The options that `health=` stands for; None when it is off.

    Raises:
        TypeError: When it is neither a bool nor options.
    """
    if isinstance(health, HealthOptions):
        return health
    if not isinstance(health, bool):
        raise TypeError(f"health={health!r}: it is True, False, or HealthOptions(threshold=5.0)")
    return HealthOptions() if health else None
