"""What the tests of the bridge share: clients in other processes, servers, and the generated code of `probe.proto`."""

import asyncio
import contextlib
import importlib
import itertools
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import grpc
import grpc.aio
from tests.interpreters import CLIENT_PYTHON

from atoll import IoContext, rpc

HERE = Path(__file__).parent
TIMEOUT = 10.0

Metadata = tuple[tuple[str, str | bytes], ...]
Methods = Mapping[str, Callable[..., Any]]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class NewLoop(Protocol):
    """Starts a loop on a thread of its own."""

    def __call__(self, name: str, /, **options: Any) -> IoContext: ...


@dataclass(frozen=True)
class Outcome:
    """All that a client sees of a call."""

    code: str
    details: str
    initial: Metadata
    trailing: Metadata
    reply: bytes | None


@dataclass
class Call:
    """A call under way in the other process. The futures may be waited for on any thread."""

    number: int
    client: "ClientProcess"
    headers: Future[Metadata] = field(default_factory=Future)
    done: Future[Outcome] = field(default_factory=Future)

    def __post_init__(self) -> None:
        # A test that waits in vain must not cancel what the reader sets.
        self.headers.set_running_or_notify_cancel()
        self.done.set_running_or_notify_cancel()

    def cancel(self) -> None:
        self.client.send("cancel", self.number)

    async def outcome(self) -> Outcome:
        return await asyncio.wait_for(asyncio.wrap_future(self.done), TIMEOUT)

    async def initial_metadata(self) -> Metadata:
        return await asyncio.wait_for(asyncio.wrap_future(self.headers), TIMEOUT)


@dataclass
class Stream:
    """A call with several messages in the other process, which takes one step after the other. On any thread."""

    number: int
    client: "ClientProcess"
    results: deque[Future[Any]] = field(default_factory=deque)

    def step(self, name: str, *arguments: object) -> Future[Any]:
        """Has the client take a step when it has taken those before; see `client_process.Steps`. Its result to come."""
        result: Future[Any] = Future()
        result.set_running_or_notify_cancel()
        self.results.append(result)
        self.client.send("step", self.number, name, *arguments)
        return result

    async def take(self, name: str, *arguments: object) -> Any:
        return await asyncio.wait_for(asyncio.wrap_future(self.step(name, *arguments)), 2 * TIMEOUT)

    async def write(self, *messages: bytes) -> None:
        for message in messages:
            await self.take("write", message)

    async def read(self) -> bytes | None:
        """The next message, or None after the last one."""
        message: bytes | None = await self.take("read")
        return message

    async def end(self) -> Outcome:
        code, details, initial, trailing = await self.take("end")
        return Outcome(code, details, initial, trailing, None)


class ClientProcess:
    """A process with a stock grpcio client. Any thread may use it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [CLIENT_PYTHON, HERE / "client_process.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"GRPC_VERBOSITY": "NONE"},
        )
        self._numbers = itertools.count()
        self._calls: dict[int, Call] = {}
        self._streams: dict[int, Stream] = {}
        self._sending = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="client's reader", daemon=True)
        self._reader.start()

    def start(
        self,
        target: str,
        path: str,
        request: bytes = b"",
        *,
        metadata: Metadata = (),
        timeout: float | None = TIMEOUT,
        cancel_after: float | None = None,
        channel: str = "",
        watch: bool = False,
    ) -> Call:
        """Starts a call; calls that name different channels have different connections. One named
        `authority=x` sends that authority; that named `repeats` sends again what was not taken.

        Only with `watch` does the client see initial metadata before the reply.
        """
        call = Call(next(self._numbers), self)
        self._calls[call.number] = call
        self.send("call", call.number, (target, channel), path, request, metadata, timeout, cancel_after, watch)
        return call

    def open(
        self,
        target: str,
        path: str,
        *,
        metadata: Metadata = (),
        timeout: float | None = TIMEOUT,
        channel: str = "",
    ) -> Stream:
        """Starts a call that takes steps."""
        stream = Stream(next(self._numbers), self)
        self._streams[stream.number] = stream
        self.send("open", stream.number, (target, channel), path, metadata, timeout)
        return stream

    async def call(self, target: str, path: str, request: bytes = b"", **options: Any) -> Outcome:
        return await self.start(target, path, request, **options).outcome()

    def send(self, *command: object) -> None:
        assert self._process.stdin is not None
        data = pickle.dumps(command)
        with self._sending:
            self._process.stdin.write(struct.pack("!I", len(data)) + data)
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while header := self._process.stdout.read(4):
            (length,) = struct.unpack("!I", header)
            event, number, *what = pickle.loads(self._process.stdout.read(length))  # noqa: S301 - our own child's
            if event == "step":
                self._streams[number].results.popleft().set_result(*what)
                continue
            call = self._calls[number]
            if event == "headers":
                call.headers.set_result(*what)
                continue
            del self._calls[number]
            call.done.set_result(Outcome(*what))
            if not call.headers.done():
                call.headers.set_result(call.done.result().initial)
        for call in self._calls.values():
            call.done.set_exception(ConnectionError("the client's process has ended"))
        for stream in self._streams.values():
            while stream.results:
                stream.results.popleft().set_exception(ConnectionError("the client's process has ended"))

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stops the process for the length of the block; its system still takes what is sent to it."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # all of its threads
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends the process without a word to its servers."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        self._process.stdout.close()


class BehavioursServer:
    """A process that serves the handlers of a module by stock grpc.aio or by Atoll; in a `with` block, its address."""

    def __init__(self, module: str, kind: Literal["aio", "atoll"], loop: str) -> None:
        self._kind = kind
        python = CLIENT_PYTHON if kind == "aio" else sys.executable
        self._process = subprocess.Popen(
            [python, str(HERE / "behaviours_server.py"), module, kind, loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> str:
        assert self._process.stdout is not None
        return f"127.0.0.1:{self._process.stdout.readline().strip()}"

    def __exit__(self, *_: object) -> None:
        """Ends it, and looks for what Atoll must not leave in the log."""
        log = self._process.communicate(timeout=20)[1]
        if self._kind == "aio":
            return
        assert self._process.returncode == 0
        for sign in ("Task was destroyed", "never retrieved", "never awaited", "Warning", "handler internal"):
            assert sign not in log, log


# -------------------------------------------------------------------------------------------------------------- servers

SERVICE = "atoll.tests.v1.Ad.Hoc"


def path(method: str, service: str = SERVICE) -> str:
    return f"/{service}/{method}"


def add_methods(
    server: Any,
    methods: Methods | None = None,
    /,
    *,
    service: str = SERVICE,
    kind: Callable[..., Any] = grpc.unary_unary_rpc_method_handler,
    **more: Callable[..., Any],
) -> None:
    """Adds functions from bytes to bytes as the methods of a service, in the way of generated code."""
    functions = {**(methods or {}), **more}
    handlers: dict[str, Any] = {name: kind(function) for name, function in functions.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_registered_method_handlers(service, handlers)


@contextlib.asynccontextmanager
async def running(server: Any, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Starts a server, and stops it at the end. Gives its address."""
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await asyncio.wait_for(server.stop(None), TIMEOUT)


@contextlib.asynccontextmanager
async def serving(
    io_context: IoContext | None = None,
    methods: Methods | None = None,
    /,
    *,
    options: Sequence[tuple[str, Any]] = (),
    kind: Callable[..., Any] = grpc.unary_unary_rpc_method_handler,
    **more: Callable[..., Any],
) -> AsyncIterator[str]:
    """A server with functions from bytes to bytes as its methods, on `io_context` or unplaced. Gives its address."""
    server = rpc.server(options=options)
    add_methods(server if io_context is None else server.on(io_context), {**(methods or {}), **more}, kind=kind)
    async with running(server) as target:
        yield target


@dataclass
class Placed:
    """A placement made by hand."""

    places: Mapping[Any, IoContext]

    def placement_of(self, module: type, /) -> IoContext | None:
        return next((self.places[base] for base in module.__mro__ if base in self.places), None)


async def until(condition: Callable[[], object]) -> None:
    """Waits for what another thread will bring about, and has no event for."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - there is none
            await asyncio.sleep(0.001)


def wait_for(event: threading.Event) -> None:
    """Blocks the calling thread until the event."""
    assert event.wait(TIMEOUT)


# ------------------------------------------------------------------------------------------------------- generated code

generated = Path(tempfile.mkdtemp(prefix="atoll-probe-"))


def _generate() -> tuple[Any, Any]:
    protoc = [CLIENT_PYTHON, "-m", "grpc_tools.protoc"]
    subprocess.run(
        [*protoc, f"-I{HERE}", f"--python_out={generated}", f"--grpc_python_out={generated}", "probe.proto"], check=True
    )
    sys.path.append(str(generated))
    return importlib.import_module("probe_pb2"), importlib.import_module("probe_pb2_grpc")


probe_pb2, probe_pb2_grpc = _generate()

_IMPORTS = """
import sys
import grpc
sys.path.append(sys.argv[1])
import probe_pb2, probe_pb2_grpc
"""


async def stub_client(target: str, program: str) -> str:
    """Runs `program` in a client's process, with `sys.argv[2]` as the target and the generated code imported.

    Returns "all is well", or what went wrong.
    """

    def run() -> subprocess.CompletedProcess[str]:
        command = [CLIENT_PYTHON, "-c", f"{_IMPORTS}\n{program}\nprint('all is well')", str(generated), target]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    finished = await asyncio.to_thread(run)
    return finished.stdout.strip() or finished.stderr
