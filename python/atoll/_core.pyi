"""The native half of Atoll: mailboxes, statistics and the transport."""

import contextvars
from asyncio import AbstractEventLoop, Future, Task
from collections.abc import Callable, Coroutine, Iterable, Sequence
from os import PathLike
from pathlib import Path
from types import CodeType, FrameType, GenericAlias
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar, TypeVarTuple, final

from typing_extensions import disjoint_base

from atoll.loop._future import LoopFuture
from atoll.loop._io_context import IoContext
from atoll.loop._options import LoopOptions
from atoll.observe._monitor import MonitorOptions
from atoll.rpc._health import HealthSpec
from atoll.rpc._method import Method
from atoll.rpc._options import ServerOptions
from atoll.rpc._overload import Overload
from atoll.rpc._spread import SpreadMethod

__all__ = [
    "AuthenticationCore",
    "BoundHandler",
    "BroadcastCore",
    "CertificatesCore",
    "CheckedFunction",
    "ConnectionCore",
    "ElectionCore",
    "ElectionLeader",
    "ElectionState",
    "EndpointCore",
    "EtcdOptionsCore",
    "FaultStream",
    "Gate",
    "GilGauge",
    "HandlerSteps",
    "LagProbeCore",
    "LoopBound",
    "LoopCore",
    "ManualTimers",
    "ModuleCheck",
    "ModuleHome",
    "ModuleReadCheck",
    "MonitorCore",
    "ReadinessCore",
    "ServerCall",
    "ServerCore",
    "SlowSubscribersCore",
    "StoreBatch",
    "StoreChange",
    "StoreChanges",
    "StoreCommitted",
    "StoreCore",
    "StorePage",
    "StoreReport",
    "StoreRow",
    "StoreSnapshot",
    "StoreStatistics",
    "StoreSubscription",
    "SystemdCore",
    "WorkGuard",
    "activate_stack_sampler",
    "answer_stack_question",
    "begin_stack_answers",
    "call_metrics",
    "check_store",
    "current_loop",
    "default_etcd_options",
    "default_limits",
    "end_stack_answers",
    "gil_waits",
    "injected_delays",
    "plain_attributes",
    "prepare_stack_sampler",
    "preview_delays",
    "prometheus_text",
    "restore_store",
    "server_metrics",
    "wait_stack_question",
]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_Lane: TypeAlias = Literal["control", "normal", "bulk"]
_Distribution: TypeAlias = tuple[int, float, float, float, list[tuple[float, float, int]]]
_ServerMetric: TypeAlias = tuple[str, str, str, list[str], str, str, list[tuple[list[str], int]]]
_Handler: TypeAlias = tuple[str, int, int, int, int, _Distribution, _Distribution, _Distribution]

@disjoint_base
class LoopCore:
    """The native half of a loop; see `atoll.IoContext`."""

    def __new__(cls, name: str, options: LoopOptions, owner: bool, clock: ManualTimers | None) -> Self: ...
    @property
    def name(self) -> str:
        """The loop's name."""

    def post(
        self,
        handler: Callable[[*_Ts], object],
        /,
        *args: *_Ts,
        name: str | None = None,
        delay: float = 0.0,
        lane: _Lane | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        """Queues `handler(*args)` to run on the loop. Any thread; never runs it at once.

        Args:
            handler: A function or a coroutine function.
            args: Its arguments.
            name: Its name in statistics; the default is its qualified name.
            delay: Seconds to wait before it is queued.
            lane: The priority class: `control`, `normal` or `bulk`; the default is that of the handler that posts, and
                `normal` outside of handlers.
            context: The context variables it runs with; the default is a copy of the caller's.

        Raises:
            MailboxFull: When the lane has reached its bound, or too many posts wait for their time.
            LoopClosedError: When the loop has been closed.
            ForkedError: When the loop belongs to the parent of this process.
            TypeError: When the handler can't be called, or the context is none.
            ValueError: When the lane is unknown or the delay can't be waited for.
        """

    def dispatch(
        self,
        handler: Callable[[*_Ts], object],
        /,
        *args: *_Ts,
        name: str | None = None,
        lane: _Lane | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        """Runs `handler(*args)` at once when called on the loop, unless too deeply nested; else posts it.

        Any thread. An exception of the handler goes to the exception hook, not to the caller. Raises what `post`
        raises.
        """

    def bind(
        self, handler: Callable[..., object], /, *, name: str | None = None, lane: _Lane | None = None
    ) -> BoundHandler:
        """Prepares `handler` once: calling the result posts it, faster than `post` does."""

    def is_current(self) -> bool:
        """Whether the caller runs on this loop."""

    def work_guard(self) -> WorkGuard:
        """Keeps `run()` from returning while the result is held. Any thread."""

    def stop(self) -> None:
        """Makes `run()` return after the handler that is running. Any thread; what is queued stays queued."""

    @property
    def stopped(self) -> bool:
        """Whether `stop()` was called or `run()` ran out of work, and `restart()` not since."""

    def restart(self) -> None:
        """Lets `run()` run again after a stop."""

    @property
    def _fileno(self) -> int: ...
    @property
    def _out_of_work(self) -> bool: ...
    @property
    def _is_idle(self) -> bool: ...
    @property
    def _executed(self) -> int: ...
    @property
    def _is_parents(self) -> bool: ...
    @property
    def _manual_now(self) -> float | None: ...
    def _set_modules(self, modules: Sequence[str]) -> None: ...
    def _inject_delays(self, rules: Sequence[tuple[str, int, int]] | None, seed: int = 0) -> None: ...
    def _check_fork(self) -> None: ...
    def _attach(
        self, asyncio_loop: AbstractEventLoop | None, handlers: int | None = None, until_empty: bool = False
    ) -> None: ...
    def _enter_thread(self) -> None: ...
    def _leave_thread(self) -> None: ...
    def _host_runs(self, runs: bool) -> None: ...
    def _end_run(self) -> None: ...
    def _drain(self) -> None: ...
    def _come_back(self, run: int) -> None: ...
    def _submit(
        self,
        future: LoopFuture[Any],
        handler: Callable[..., object],
        args: tuple[Any, ...],
        name: str | None,
        delay: float,
        lane: _Lane | None,
        context: contextvars.Context | None,
    ) -> int | None: ...
    def _post_delayed(
        self, handler: Callable[..., object], args: tuple[Any, ...], name: str | None, delay: float, lane: _Lane | None
    ) -> int | None: ...
    def _cancel_delayed(self, number: int) -> bool: ...
    def _post_internal(self, message: Callable[[], object]) -> bool: ...
    def _call_tasks(self) -> list[Task[Any]]: ...
    def _close(self) -> list[LoopFuture[Any]]: ...
    def _snapshot(
        self,
    ) -> tuple[
        list[int],
        list[int],
        int,
        int,
        list[_Handler],
        tuple[float, float, float, float, float],
        tuple[float, float | None],
    ]: ...

@disjoint_base
class ManualTimers:
    """Time that passes only when told to; `atoll.testing.ManualClock` derives from it."""

    def __new__(cls) -> Self: ...
    def now(self) -> float:
        """Seconds since the clock was made."""

    def _next_due(self) -> float | None: ...
    def _advance_to(self, time: float) -> None: ...

def current_loop() -> LoopCore | None:
    """The loop whose `run()` or handler is on this thread's stack; None in a guest's plain coroutines, too."""

_StallTuple: TypeAlias = tuple[int, str, str | None, float, float, bool, str | None, float]

@final
class MonitorCore:
    """The native half of `atoll.observe.LoopMonitor`. Any thread."""

    def __new__(cls, options: MonitorOptions) -> Self: ...
    def watch(self, io_context: LoopCore, stall_threshold: float | None, counts_for_health: bool) -> None:
        """Watches a loop until it is gone."""

    def wait_events(
        self, patience: float
    ) -> tuple[list[tuple[str, bool, float]], list[tuple[_StallTuple, int]]] | None:
        """Waits up to `patience` seconds and returns what was noticed; None when stopped."""

    def views(
        self,
    ) -> list[
        tuple[
            tuple[str, bool, bool, bool],
            tuple[int, float, float],
            float | None,
            float | None,
            tuple[str, float] | None,
            int,
        ]
    ]:
        """The loops as they are now."""

    def stalls(self) -> list[_StallTuple]:
        """The stalls that are retained, the oldest first."""

    def stop(self) -> None:
        """Ends the thread and waits for it."""

def prepare_stack_sampler(signal: int) -> int | None:
    """Makes the pipe for stacks that `signal` causes; returns the descriptor for faulthandler, or None elsewhere."""

def begin_stack_answers() -> int:
    """A Python thread answers questions from now on; returns its number for `wait_stack_question`."""

def end_stack_answers(answerer: int) -> None:
    """The thread with that number answers no more, and `wait_stack_question` gives it None at once."""

def wait_stack_question(answerer: int) -> tuple[int, int] | None:
    """Waits for the number of a question and the system's number of the thread it is about."""

def answer_stack_question(number: int, stack: str) -> None:
    """Answers a question with a stack in faulthandler's form, empty when there is none."""

def activate_stack_sampler(signal: int) -> int | None:
    """Faulthandler has taken `signal`: it may be sent from now on. Returns the signal by which stacks are taken."""

@final
class LagProbeCore:
    """Measures one loop from inside, from its construction to `stop()`. Any thread."""

    def __new__(cls, io_context: LoopCore, interval: float) -> Self: ...
    def lag(self) -> float:
        """The lag in seconds."""

    def latencies(self) -> _Distribution:
        """All lags so far."""

    def stop(self) -> None:
        """Measures no more."""

@final
class GilGauge:
    """Measures how long the GIL is waited for, from its construction to `stop()`. Any thread."""

    def __new__(cls, interval: float) -> Self: ...
    def waits(self) -> _Distribution:
        """All waits so far."""

    def stop(self) -> None:
        """Ends the thread and waits for it."""

def gil_waits() -> tuple[float, _Distribution]:
    """All waits of all gauges of the process, and a time in seconds from an arbitrary origin."""

@final
class EndpointCore:
    """A server that tells what the process does, from its construction to `stop()`. Any thread."""

    def __new__(
        cls, address: str, liveness_threshold: float | None, readiness: ReadinessCore | None, beyond_loopback: bool
    ) -> Self: ...
    @property
    def address(self) -> str:
        """Where it listens, with the port that was taken."""

    def publish(self, text: str) -> None:
        """Has `/metrics` end with this text from now on."""

    def stop(self) -> None:
        """Closes all that is open and waits for the thread, which never waits for Python."""

    def close_in_child(self) -> None:
        """Closes what a forked child has inherited, once."""

def call_metrics() -> list[_ServerMetric]:
    """The metrics of the calls of all servers.

    Tuples of name, type, help, labels, name for OpenTelemetry, unit there, and samples: values of the labels, value.
    Any thread.
    """

def server_metrics() -> list[_ServerMetric]:
    """The metrics of the servers themselves, as `call_metrics`. Any thread."""

def default_limits() -> dict[str, Any]:
    """The transport's own values of what `ServerOptions` and its limits can set, by their names there.

    Sizes in bytes, durations in seconds, limits of frames as (burst, seconds), None for what is unlimited. Any thread.
    """

def prometheus_text() -> str:
    """The statistics of all loops as Prometheus text. Any thread; the GIL is released meanwhile."""

@final
class BoundHandler:
    """A handler bound to a loop: calling it posts the handler with the given arguments. Any thread."""

    @property
    def handler(self) -> Callable[..., object]:
        """The handler."""

    @property
    def name(self) -> str:
        """Its name in statistics."""

    def __call__(self, *args: Any) -> None:
        """Posts the handler. Raises what `IoContext.post` raises."""

@final
class LoopBound(Generic[_T]):
    """A box whose value can be had on its own loop only: elsewhere it raises `NotOnLoopError`.

    For what handlers of one loop share and others can reach, such as a table that a module gives to its helpers. What
    is in the value is not checked: keep it in the box, and take it out where it is used.

        sessions = LoopBound({})        # in a handler: bound to the loop that runs it
        sessions.get()["a"] = session   # on the same loop: fine; elsewhere: an error

    It is checked at every access, in every build: 7 ns for `get` and 13 ns for `set`, where reading an attribute takes
    5 (CPython 3.13). When its loop has been closed, the value is anybody's.

    Args:
        value: What is in the box. Any thread may make one and hand it on.
        io_context: The loop that it is bound to; the one that runs here unless given.

    Raises:
        NotOnLoopError: When no loop is given and none runs on this thread.
    """

    def __new__(cls, value: _T, *, io_context: IoContext | None = None) -> Self: ...
    def __class_getitem__(cls, key: object) -> GenericAlias: ...
    @property
    def io_context(self) -> IoContext:
        """The loop that it is bound to. Any thread."""

    def get(self) -> _T:
        """The value. On its loop.

        Raises:
            NotOnLoopError: Elsewhere; it names both loops, and the line where the box was made.
        """

    def set(self, value: _T) -> None:
        """Puts `value` in its place. On its loop.

        Raises:
            NotOnLoopError: Elsewhere; it names both loops, and the line where the box was made.
        """

@final
class ModuleHome:
    """Which loop a module lives on."""

    def __new__(cls, io_context: LoopCore, module: type) -> Self: ...
    def move_in(self, resident: type) -> None:
        """Has `resident`, a class that refers to this home as its `__atoll_home__`, checked at full speed. Once."""

class ModuleCheck:
    """Before a class among the bases of one with an `__atoll_home__`: its instances may be touched on their loop only.

    Elsewhere methods may be looked up, and check the loop when they are called; names with double underscores are free.
    """

class ModuleReadCheck:
    """Like `ModuleCheck`, for classes with a `__setattr__` of their own: only what is read is checked."""

@final
class CheckedFunction:
    """A module's function as others than its loop see it: it checks the loop when it is called."""

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function itself, which does not check anything."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...  # noqa: ANN401 - what the function returns
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class WorkGuard:
    """Keeps a loop's `run()` from returning until `reset()`, the end of its `with` block, or its collection."""

    def reset(self) -> None:
        """Lets the loop go. Any thread; a second call does nothing."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_exc_info: object) -> None: ...

@final
class HandlerSteps(Coroutine[Any, Any, None]):
    """The coroutine that a task drives in place of a coroutine handler's own, to measure its steps."""

    @property
    def __name__(self) -> str: ...
    @property
    def __qualname__(self) -> str: ...
    @property
    def cr_frame(self) -> FrameType | None: ...
    @property
    def cr_code(self) -> CodeType: ...
    @property
    def cr_running(self) -> bool: ...
    @property
    def cr_await(self) -> object: ...
    def __await__(self) -> Self: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> object: ...
    def send(self, value: object) -> object: ...
    def throw(self, *exception: object) -> object: ...
    def close(self) -> None: ...

@disjoint_base
class ServerCall:
    """One call as its handler sees it; see `atoll.rpc.ServicerContext`."""

    def __new__(cls) -> Self: ...
    def peer(self) -> str:
        """The client's address in grpc's form, such as `ipv4:127.0.0.1:50051`."""

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, not below zero; None without one."""

    def done(self) -> bool:
        """Whether the call has been answered, by the handler or by the transport."""

    def cancelled(self) -> bool:
        """Whether the call ended before its handler did: by its deadline, its client, or the end of the server."""

    def set_details(self, details: str) -> None:
        """Sets the text that goes with the status."""

    def details(self) -> str:
        """The text set so far."""

    def disable_next_message_compression(self) -> None:
        """Sends the next message of the reply as it is."""

    @property
    def arrival_time(self) -> float:
        """When the network thread had the call: the whole request, or of a stream of requests the headers.

        Before the call waited for anything: a place, the mailbox, the loop. In seconds of `IoContext.now()` of the
        call's loop: `io_context.now() - context.arrival_time` is what the caller has waited here so far.
        """

    @property
    def message_arrival_time(self) -> float | None:
        """When the network thread had the request message that was read last; None before the first one.

        In seconds of the loop's clock, as `arrival_time`, which it is for a call with one request. A message that came
        when the bound of unread ones was reached may tell the time of one after it, never one that is yet to come.
        """

    def _connection(self) -> ConnectionCore: ...
    @property
    def _path(self) -> str: ...
    def peer_identity_key(self) -> str | None:
        """The property that tells who the client is: `x509_subject_alternative_name`, or `x509_common_name`.

        None when it showed no certificate.
        """

    def peer_identities(self) -> list[bytes] | None:
        """The values of that property; None when the client showed no certificate."""

    def _auth_context(self) -> list[tuple[str, list[bytes]]]: ...
    @property
    def _authority(self) -> str: ...
    @property
    def _connection_number(self) -> int: ...
    @property
    def _cancel_reason(
        self,
    ) -> (
        Literal["deadline", "client", "connection lost", "shutdown", "bad request", "slow client", "slow body"] | None
    ): ...
    @property
    def _code(self) -> int | None: ...
    def _metadata(self) -> list[tuple[str, str | bytes]]: ...
    def _set_code(self, number: int) -> None: ...
    def _set_trailing(self, pairs: Iterable[tuple[str, str | bytes]]) -> None: ...
    def _send_initial_metadata(self, pairs: Iterable[tuple[str, str | bytes]]) -> bool: ...
    def _abort(self, number: int, details: str) -> bool: ...
    def _add_callback(self, callback: Callable[[], object]) -> bool: ...
    def _compress(self, number: int) -> bool: ...
    def _receive(self) -> Any: ...  # noqa: ANN401 - the request's class
    def _receive_blocking(self) -> Any: ...  # noqa: ANN401
    def _send(self, message: object) -> bool: ...
    def _send_blocking(self, message: object) -> None: ...
    def _has_room(self) -> bool: ...
    def _wait(self, future: Future[None]) -> bool: ...
    def _found(
        self,
        io_context: LoopCore,
        deserializer: Callable[[bytes], Any] | None,
        serializer: Callable[[Any], bytes] | None,
        streams: tuple[bool, bool],
        request: bytes | None,
    ) -> Any: ...  # noqa: ANN401 - the request's class
    def _arrive(self, io_context: LoopCore, alone: bool) -> None: ...
    def _depart(self, io_context: LoopCore) -> None: ...

@disjoint_base
class ReadinessCore:
    """Conditions that are told without Python; see `atoll.observe.Readiness`. Any thread."""

    def __new__(cls) -> Self: ...
    def remove(self, name: str) -> bool:
        """Forgets a condition; false when there is none of that name. Any thread."""

    def _set(self, name: str, ok: bool, reason: str, time_to_live: float | None) -> None: ...
    def _told(self) -> list[tuple[str, bool, str]]: ...

@final
class SystemdCore:
    """The line to systemd, from its construction to `stop()`. Any thread; raises OSError for what can't be told."""

    def __new__(cls, socket: str, watchdog: float | None, liveness_threshold: float | None) -> Self: ...
    def ready(self) -> None: ...
    def status(self, text: str) -> None: ...
    def stopping(self) -> None: ...
    def stop(self) -> None:
        """Ends the thread, which never waits for Python."""

@final
class ConnectionCore:
    """A client's connection, open or not; see `atoll.rpc.Connection`. Any thread."""

    @property
    def id(self) -> int:
        """Counts the connections of the process, from 1 on."""

    @property
    def peer(self) -> str:
        """The client's address in grpc's form."""

    @property
    def closed(self) -> bool:
        """Whether it has ended."""

    @property
    def last_received(self) -> float:
        """When bytes last came from the client, in seconds."""

    def ping(self, io_context: LoopCore, future: Future[float], timeout: float) -> None:
        """Pings the client.

        `future`, of the asyncio loop that `io_context` drains on, gets the seconds of the round trip, or
        `ConnectionClosedError`, or after `timeout` seconds `PingTimeoutError`.
        """

@disjoint_base
class AuthenticationCore:
    """What network threads check before a call reaches Python; see `atoll.rpc.Authentication`."""

    def __new__(
        cls,
        tokens: Sequence[str] | None,
        cluster_id: str | None,
        cluster_id_key: str,
        require_cluster_id: bool,
        exempt_health: bool,
    ) -> Self: ...
    def _replace_tokens(self, tokens: Sequence[str]) -> bool: ...
    def _refused(self) -> tuple[int, int, int, int]: ...

@disjoint_base
class CertificatesCore:
    """Certificates that network threads read and any thread may replace; see `atoll.rpc.ServerCertificates`."""

    def __new__(cls, pairs: Sequence[tuple[bytes, bytes]], roots: bytes | None, require_client_auth: bool) -> Self: ...
    def _replace(self, pairs: Sequence[tuple[bytes, bytes]], roots: bytes | None) -> None: ...
    @property
    def require_client_auth(self) -> bool:
        """Whether a client must show a certificate of the roots."""

@final
class Gate:
    """A limit of how many calls run at a time, for methods that share it. Any thread."""

    def __new__(cls, limit: int) -> Self: ...
    @property
    def active(self) -> int:
        """How many calls have a place now."""

@final
class BroadcastCore:
    """A set of streams that get the same messages; see `atoll.rpc.Broadcast`. Any thread."""

    def __new__(
        cls, max_waiting: int, ends_slow_subscribers: bool, slow_subscribers: SlowSubscribersCore | None = None
    ) -> Self: ...
    def subscribe(self, context: ServerCall, tag: int = 0, position: int = 0) -> int:
        """Sends later messages to a call, too. The number that takes it out again."""

    def unsubscribe(self, number: int, context: ServerCall) -> int | None:
        """Sends no later message to a subscriber.

        Returns the position of the last message that it got; None when it is no subscriber.
        """

    def send(self, message: bytes, since: int = 0, position: int = 0) -> bool:
        """Sends a serialised message to all subscribers. Returns at once; false when too much waits."""

    def counts(self) -> tuple[int, int, int, int, int]:
        """Subscribers, messages sent, messages missed, subscribers ended, subscribers that left."""

@disjoint_base
class SlowSubscribersCore:
    """Tells a loop which subscribers left their broadcasts; see `atoll.rpc.SlowSubscribers`. Any thread."""

    def __new__(cls, io_context: LoopCore, callback: Callable[[int], object]) -> Self: ...
    def take(self) -> list[tuple[int, int]]:
        """(tag, position) of those who left since the last time."""

    def close(self) -> None:
        """The loop is told no more."""

@final
class ServerCore:
    """A transport whose calls run on loops. Any thread; nothing here waits for a network thread but `join`."""

    def __new__(
        cls,
        options: ServerOptions,
        authentication: AuthenticationCore | None = None,
        readiness: ReadinessCore | None = None,
    ) -> Self: ...
    def add_port(self, address: str, certificates: CertificatesCore | None = None) -> int:
        """Binds `address` and listens, with TLS if there are certificates; connections wait until the start.

        Returns the port, or 0 for a Unix socket.
        """

    def start(
        self,
        methods: Sequence[Method],
        spread_methods: Sequence[SpreadMethod],
        fallback: Method | None,
        health: HealthSpec | None,
        overload: Overload,
    ) -> None:
        """Serves the methods.

        The keys of `spread_methods` choose between their loops. A path that none of them has goes to `fallback`, or is
        answered UNIMPLEMENTED.
        """

    def stop(self, grace: float | None, io_context: LoopCore, done: Callable[[], object]) -> None:
        """Stops; `done` is posted to `io_context` when every connection is closed."""

    def say_health(self, service: str, serving: bool | None) -> bool:
        """Says of a service what no loop can tell; None takes it back. False without health, or before the start."""

    def join(self) -> None:
        """Waits for the network threads to end."""

    def method_stats(
        self,
    ) -> list[tuple[str, list[str], str, int, list[int], list[int], int, int, tuple[int, int]]]:
        """What has been counted of each method.

        A tuple of path, loops, name in their statistics, started, finished by code, refused by reason, overdue,
        waiting, and the bytes received and sent. Nothing before the start; after the end as it was then.
        """

    @staticmethod
    def refusals() -> list[str]:
        """The reasons for which calls are refused, in the order of `method_stats`."""

    def server_stats(
        self,
    ) -> tuple[int, int, list[tuple[str, int]], list[tuple[str, int]], list[tuple[str, int]]]:
        """What is counted of the server itself.

        How many connections are open and how many ended with an error; and by name, without what never happened,
        requests that named no method and were refused, TLS handshakes by how they ended, and offences.
        """

    def offence_notes(self) -> list[tuple[str, str, float, int]]:
        """Who of late did what no well-behaved client does: what, the address, seconds since 1970, how many more."""

    def counts(self) -> tuple[int, int]:
        """How many connections are open, and how many calls in flight."""

@final
class FaultStream:
    """The draws of one fault site on one loop; see `atoll.chaos.FaultSite`. Any thread.

    Args:
        seed: From 0 to 2**64 - 1.
        loop_name: Empty outside of loops.
        site: The site's name.
        activation: The share of runs in which the site can fire.
        firing: The share of its draws that fire then.
    """

    def __new__(cls, seed: int, loop_name: str, site: str, activation: float, firing: float) -> Self: ...
    def fires(self) -> bool:
        """Whether the site fires this time."""

    @property
    def activated(self) -> bool:
        """Whether the site can fire in this run."""

    def counts(self) -> tuple[int, int]:
        """How often it was reached, and how often it fired."""

def preview_delays(
    rules: Sequence[tuple[str, int, int]], seed: int, loop_name: str, handler: str, count: int
) -> tuple[str, list[int]] | None:
    """The pattern that a handler's rule has, and the first `count` delays of the handler on a loop, in microseconds.

    Rules are (pattern, minimum, maximum) in microseconds. None for a handler that no rule matches.
    """

def injected_delays() -> list[tuple[str, str, int, float]]:
    """(loop, handler, how many delays, their sum in seconds) of everything that was delayed in this process."""

def plain_attributes(class_: type) -> tuple[bool, bool]:
    """Whether instances of a class read attributes, and set them, in the plain way: `__getattr__` may come on top."""

# -- the store ---------------------------------------------------------------------------------------------------------

@final
class StoreRow:
    """What is stored under a key. Frozen.

    Attributes:
        key: Empty in what a commit says of rows before it: who commits knows them.
        value: What was put.
        created: The revision at which the key came to be.
        revision: The revision of the last put.
        version: How often it has been put since it came to be, from 1.
        owner: With whom the row goes; empty for nobody.
    """

    @property
    def key(self) -> bytes: ...
    @property
    def value(self) -> bytes: ...
    @property
    def created(self) -> int: ...
    @property
    def revision(self) -> int: ...
    @property
    def version(self) -> int: ...
    @property
    def owner(self) -> bytes: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class StorePage:
    """Rows in the order of their keys, at one revision."""

    @property
    def rows(self) -> list[StoreRow]: ...
    @property
    def revision(self) -> int: ...
    @property
    def more(self) -> bool: ...

@final
class StoreCommitted:
    """What came of a batch.

    Attributes:
        applied: All checks held, and all operations were done.
        revision: The batch's; if it changed nothing, the store's at that point.
        failed_check: Which check did not hold first, by its number; None when all did.
        found: The row that it found; None when there was none.
        previous: Per operation the row before it, of a put or a delete.
        deleted: Per operation how many rows it deleted.
    """

    @property
    def applied(self) -> bool: ...
    @property
    def revision(self) -> int: ...
    @property
    def failed_check(self) -> int | None: ...
    @property
    def found(self) -> StoreRow | None: ...
    @property
    def previous(self) -> list[StoreRow | None]: ...
    @property
    def deleted(self) -> list[int]: ...

@final
class StoreChange:
    """What happened to a key.

    Attributes:
        row: What is there from then on; None when it was deleted.
        previous: What was there until then; None when it was created.
    """

    @property
    def revision(self) -> int: ...
    @property
    def table(self) -> str: ...
    @property
    def key(self) -> bytes: ...
    @property
    def row(self) -> StoreRow | None: ...
    @property
    def previous(self) -> StoreRow | None: ...

@final
class StoreChanges:
    """A part of the change log, whole revisions only. Go on after `through`."""

    @property
    def changes(self) -> list[StoreChange]: ...
    @property
    def through(self) -> int: ...

@final
class StoreStatistics:
    """What a store holds and has done, at one moment. Times are in seconds, sizes in bytes."""

    @property
    def engine(self) -> str: ...
    @property
    def tables(self) -> list[tuple[str, int, int]]: ...
    @property
    def revision(self) -> int: ...
    @property
    def oldest(self) -> int: ...
    @property
    def log_changes(self) -> int: ...
    @property
    def log_bytes(self) -> int: ...
    @property
    def snapshots(self) -> int: ...
    @property
    def snapshot_bytes(self) -> int: ...
    @property
    def snapshots_expired(self) -> int: ...
    @property
    def pending_batches(self) -> int: ...
    @property
    def pending_bytes(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def batches(self) -> int: ...
    @property
    def changes(self) -> int: ...
    @property
    def failed_checks(self) -> int: ...
    @property
    def busy(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def commit(self) -> tuple[int, float, float, list[tuple[float, int]]]: ...
    @property
    def wait(self) -> tuple[int, float, float, list[tuple[float, int]]]: ...
    @property
    def stopped(self) -> str | None: ...

@final
class StoreReport:
    """What a check of a store's files has found.

    Attributes:
        tables: (name, rows) by table.
        bytes: The size of the file.
        locked_by: Who has the directory locked, if somebody has.
        is_clean: It was closed cleanly; it is not while a server runs on it.
        problems: What is wrong; empty when it is sound. The remedy is to restore a backup.
    """

    @property
    def path(self) -> Path: ...
    @property
    def schema_version(self) -> int: ...
    @property
    def generation(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def revision(self) -> int: ...
    @property
    def tables(self) -> list[tuple[str, int]]: ...
    @property
    def bytes(self) -> int: ...
    @property
    def locked_by(self) -> str | None: ...
    @property
    def is_clean(self) -> bool: ...
    @property
    def problems(self) -> list[str]: ...

def check_store(path: str | PathLike[str]) -> StoreReport: ...
def restore_store(
    source: str | PathLike[str], directory: str | PathLike[str], force: bool = False
) -> tuple[str, int, int, Path | None]: ...

@final
class ElectionLeader:
    """Who leads, as its key in etcd says.

    Attributes:
        name: The server's.
        address: Where clients reach it.
        started: When its election began, in seconds since 1970 by its own clock.
        epoch: Of its term.
    """

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def started(self) -> int: ...
    @property
    def epoch(self) -> int: ...

@final
class ElectionState:
    """Where an election stands.

    Attributes:
        role: The last two are final.
        leader: Who leads, as far as a standby knows.
        epoch: Of this server's term, while it leads and after it has lost.
        problem: Of a standby: why etcd could not be asked the last time. Of a server that has lost: how it came.
    """

    @property
    def role(self) -> Literal["standby", "leading", "lost", "resigned"]: ...
    @property
    def leader(self) -> ElectionLeader | None: ...
    @property
    def epoch(self) -> int | None: ...
    @property
    def problem(self) -> str | None: ...

@final
class EtcdOptionsCore:
    """What `atoll.store.EtcdOptions` says, checked.

    Raises:
        ValueError: An option is wrong.
    """

    def __new__(
        cls,
        *,
        endpoints: list[str],
        prefix: str,
        user: str | None,
        password: str | None,
        ca: bytes | None,
        cert: bytes | None,
        key: bytes | None,
        server_name: str | None,
        lease: float,
        keepalive: float,
        validity: float,
        request_timeout: float,
        connect_timeout: float,
        load_timeout: float,
        max_operations: int,
        max_request_bytes: int,
        history_revisions: int,
    ) -> Self: ...

def default_etcd_options() -> dict[str, Any]:
    """What holds of `atoll.store.EtcdOptions` where nothing is said, by the names of its fields."""

@disjoint_base
class ElectionCore:
    """The native half of `atoll.store.Election`.

    Raises:
        ForkedError: In a child of the process that began it.
    """

    def __new__(cls, options: EtcdOptionsCore, name: str, address: str) -> Self: ...
    @property
    def state(self) -> ElectionState: ...
    @property
    def remaining(self) -> float: ...
    def subscribe(self, io_context: LoopCore, callback: Callable[[int], object]) -> StoreSubscription: ...
    def resign_blocking(self) -> None: ...

@final
class StoreBatch:
    """Checks and operations that are done together or not at all; made by `store.batch()`. One thread at a time.

    Every method returns the batch, so that calls can be chained. Checks look at the state before the batch; each
    operation sees what those before it have done. Rows that have an owner go when the owner's are deleted.

    Raises:
        ValueError: The store has no such table.
    """

    def check_revision(self, table: str, key: bytes, revision: int) -> Self: ...
    def check_exists(self, table: str, key: bytes) -> Self: ...
    def check_absent(self, table: str, key: bytes) -> Self: ...
    def put(self, table: str, key: bytes, value: bytes, owner: bytes = ...) -> Self: ...
    def delete(self, table: str, key: bytes) -> Self: ...
    def delete_range(self, table: str, start: bytes, end: bytes | None = None) -> Self: ...
    def delete_owned(self, owner: bytes) -> Self: ...
    def __len__(self) -> int: ...

@final
class StoreSnapshot:
    """A store at one revision, until it is closed. Any thread."""

    @property
    def revision(self) -> int: ...
    def get(self, table: str, key: bytes) -> StoreRow | None: ...
    def scan(self, table: str, start: bytes = ..., end: bytes | None = None, limit: int = 1000) -> StorePage: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_exc_info: object) -> None: ...

@final
class StoreSubscription:
    """A loop is told when a store or an election has changed, until this is closed or collected. Any thread."""

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_exc_info: object) -> None: ...

@disjoint_base
class StoreCore:
    """The native half of `atoll.store.Store`.

    Raises:
        StoreError: Of a class of its own for each reason; see `atoll.errors`.
        ForkedError: The store is that of the process that this one was forked from.
        ValueError: The store has no such table, or the batch was made by another store.
    """

    def __new__(
        cls,
        tables: list[str],
        generation: str | None = None,
        directory: str | PathLike[str] | None = None,
        max_bytes: int | None = None,
        election: ElectionCore | None = None,
    ) -> Self: ...
    def backup_blocking(
        self, path: str | PathLike[str], progress: Callable[[int, int], object] | None = None
    ) -> tuple[str, int, int, int]: ...
    def get(self, table: str, key: bytes) -> StoreRow | None: ...
    def get_many(self, table: str, keys: list[bytes]) -> list[StoreRow | None]: ...
    def scan(
        self, table: str, start: bytes = ..., end: bytes | None = None, limit: int = 1000, reverse: bool = False
    ) -> StorePage: ...
    def count(self, table: str, start: bytes = ..., end: bytes | None = None) -> int: ...
    def owned(self, owner: bytes) -> list[tuple[str, bytes]]: ...
    @property
    def revision(self) -> int: ...
    @property
    def generation(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def tables(self) -> list[str]: ...
    def batch(self) -> StoreBatch: ...
    def commit(self, batch: StoreBatch) -> Future[StoreCommitted]: ...
    def commit_blocking(self, batch: StoreBatch) -> StoreCommitted: ...
    def changes(self, after: int, limit: int = 1000, max_bytes: int = ...) -> StoreChanges: ...
    def snapshot(self) -> StoreSnapshot: ...
    def subscribe(self, io_context: LoopCore, callback: Callable[[int], object]) -> StoreSubscription: ...
    def statistics(self) -> StoreStatistics: ...
    def close_blocking(self) -> None: ...
