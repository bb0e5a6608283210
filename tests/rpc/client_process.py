"""A stock grpcio client in a process of its own; `support.ClientProcess` drives it over its stdin and stdout.

Requests and replies are pickled tuples, each after its length. It knows no message types: bytes go in and come out.
"""

import asyncio
import contextlib
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

# The name of a channel that sends again what a connection had not taken when it ended, as grpc's do by default. The
# others show what comes of a single attempt.
REPEATS = "repeats"
# The limits under test are the server's.
CHANNEL_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


def open_channel(target: str, name: str, options: Any) -> grpc.aio.Channel:
    """A channel; one named `tls=FOLDER,AUTHORITY[,CLIENT]` is secured with these files, whatever follows a `#`."""
    if not name.startswith("tls="):
        return grpc.aio.insecure_channel(target, options=options)
    folder, authority, *own = name.removeprefix("tls=").partition("#")[0].split(",")
    pem = Path(folder)
    key, chain = ((pem / f"{own[0]}.{end}").read_bytes() for end in ("key", "pem")) if own else (None, None)
    credentials = grpc.ssl_channel_credentials((pem / f"{authority}.pem").read_bytes(), key, chain)
    return grpc.aio.secure_channel(target, credentials, options=options)


class Client:
    def __init__(self) -> None:
        self.channels: dict[tuple[str, str], grpc.aio.Channel] = {}
        self.calls: dict[int, Any] = {}
        self.steps: dict[int, asyncio.Queue[tuple[Any, ...]]] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=2**30)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                (length,) = struct.unpack("!I", await reader.readexactly(4))
                verb, *arguments = pickle.loads(await reader.readexactly(length))  # noqa: S301 - our own parent's
                getattr(self, verb)(*arguments)
        for channel in self.channels.values():
            await channel.close()

    def tell(self, *event: object) -> None:
        data = pickle.dumps(event)
        sys.stdout.buffer.write(struct.pack("!I", len(data)) + data)
        sys.stdout.buffer.flush()

    def call(  # noqa: PLR0917 - as they come over the pipe
        self,
        number: int,
        address: tuple[str, str],
        path: str,
        request: bytes,
        metadata: tuple[tuple[str, str | bytes], ...],
        timeout: float | None,
        cancel_after: float | None,
        watch: bool,  # noqa: FBT001 - as it comes
    ) -> None:
        channel = self.channel(address)
        # The same on the wire, but only for a stream does grpcio hand out headers that come before the reply.
        method = channel.unary_stream(path) if watch else channel.unary_unary(path)
        call = self.calls[number] = method(request, metadata=metadata, timeout=timeout)
        if cancel_after is not None:
            asyncio.get_running_loop().call_later(cancel_after, call.cancel)
        task = asyncio.ensure_future(self.follow(number, call))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def channel(self, address: tuple[str, str]) -> Any:
        if address not in self.channels:
            target, name = address
            authority = name.removeprefix("authority=")
            options = dict(CHANNEL_OPTIONS)
            if authority != name:
                options["grpc.default_authority"] = authority
            if name == REPEATS:
                options["grpc.enable_retries"] = 1
            self.channels[address] = open_channel(target, name, tuple(options.items()))
        return self.channels[address]

    def open(
        self,
        number: int,
        address: tuple[str, str],
        path: str,
        metadata: tuple[tuple[str, str | bytes], ...],
        timeout: float | None,
    ) -> None:
        """Starts a call that takes steps; all kinds of calls are the same on the wire."""
        self.steps[number] = asyncio.Queue()
        call = self.channel(address).stream_stream(path)(metadata=metadata, timeout=timeout)
        task = asyncio.ensure_future(self.take_steps(number, Steps(call)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def step(self, number: int, name: str, *arguments: Any) -> None:
        self.steps[number].put_nowait((name, *arguments))

    async def take_steps(self, number: int, steps: "Steps") -> None:
        """Tells the result of each step; the last one is `end`."""
        name = ""
        while name != "end":
            name, *arguments = await self.steps[number].get()
            try:
                async with asyncio.timeout(20):
                    result = await getattr(steps, name)(*arguments)
            except TimeoutError:
                result = "timed out"
            except (grpc.RpcError, asyncio.CancelledError, asyncio.InvalidStateError):
                result = "the call has ended"
            self.tell("step", number, result)
        del self.steps[number]

    async def follow(self, number: int, call: Any) -> None:
        reply = None
        with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
            initial = await call.initial_metadata()
            self.tell("headers", number, tuple(map(tuple, initial or ())))
        with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
            reply = await (call.read() if hasattr(call, "read") else call)
        initial = tuple(map(tuple, await call.initial_metadata() or ()))
        trailing = tuple(map(tuple, await call.trailing_metadata() or ()))
        code = await call.code()
        self.calls.pop(number, None)
        self.tell("done", number, code.name, await call.details() or "", initial, trailing, reply)

    def cancel(self, number: int) -> None:
        if number in self.calls:
            self.calls[number].cancel()


class Steps:
    """What a test may do with a call."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def write(self, message: bytes, count: int = 1) -> None:
        for _ in range(count):
            await self.call.write(message)

    async def done_writing(self) -> None:
        await self.call.done_writing()

    async def read(self) -> Any:
        """The next message; None after the last one."""
        message = await self.call.read()
        return None if message is grpc.aio.EOF else message

    async def read_all(self) -> list[bytes]:
        messages = []
        # What came before an error counts, too.
        with contextlib.suppress(grpc.RpcError, asyncio.CancelledError):
            while (message := await self.read()) is not None:
                messages.append(message)
        return messages

    async def initial(self) -> tuple[Any, ...]:
        return tuple(map(tuple, await self.call.initial_metadata() or ()))

    async def cancel(self) -> None:
        self.call.cancel()

    async def end(self) -> tuple[Any, ...]:
        """Code, details, initial and trailing metadata."""
        code = await self.call.code()
        trailing = tuple(map(tuple, await self.call.trailing_metadata() or ()))
        return code.name, await self.call.details() or "", await self.initial(), trailing


if __name__ == "__main__":
    asyncio.run(Client().main())
