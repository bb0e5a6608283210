"""`RoutedChannel`: what stubs take for a channel, and whose calls go to the leader. One loop only."""

from __future__ import annotations

import asyncio
import random  # noqa: TID251 - a client lives outside any loop of ours: its pauses are its own
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from atoll_control.client._attempts import Attempts, Router
from atoll_control.client._failure import Failure
from atoll_control.client._options import channel_options, metadata_of
from atoll_control.client.errors import ClientClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from atoll_control.client._options import Tls


class RoutedChannel:
    """One channel of grpc per server, of which the router says which is next."""

    def __init__(
        self, endpoints: Sequence[str], *, token: str | None, tls: Tls | None, timeout: float, wait_for_server: bool
    ) -> None:
        """Connects when it is used."""
        self.router = Router(endpoints)
        self.timeout = timeout
        self.metadata = metadata_of(token)
        self._tls = tls
        self.wait_for_server = wait_for_server
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._is_closed = False

    def channel_to(self, endpoint: str) -> grpc.aio.Channel:
        """The channel to one server.

        Raises:
            ClientClosedError: the client is closed.
            OSError: a file of TLS can't be read.
        """
        if self._is_closed:
            raise ClientClosedError("the client is closed: make calls within its `async with` block")
        channel = self._channels.get(endpoint)
        if channel is None:
            options = channel_options(self._tls)
            if self._tls is None:
                channel = grpc.aio.insecure_channel(endpoint, options=options)
            else:
                channel = grpc.aio.secure_channel(endpoint, self._tls.credentials(), options=options)
            self._channels[endpoint] = channel
        return channel

    async def close(self) -> None:
        """Closes the connections; calls under way are cancelled."""
        self._is_closed = True
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    # -- what stubs use ------------------------------------------------------------------------------------------------

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_options: Any
    ) -> Callable[..., Any]:
        """A method that is called again, and elsewhere, where that is safe."""
        callables: dict[grpc.aio.Channel, Any] = {}

        async def call(request: Any, *, timeout: float | None = None) -> Any:
            loop = asyncio.get_running_loop()
            attempts = self._attempts(method, request, timeout)
            while True:
                left = attempts.begin(loop.time())
                channel = self.channel_to(attempts.endpoint)
                attempt = callables.get(channel)
                if attempt is None:
                    attempt = channel.unary_unary(method, request_serializer, response_deserializer)
                    callables[channel] = attempt
                try:
                    response = await attempt(request, timeout=left, metadata=self.metadata)
                except grpc.RpcError as error:
                    failure = Failure.of(error)
                else:
                    attempts.checked(response)
                    return response
                await asyncio.sleep(attempts.failed(failure, loop.time()))

        return call

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_options: Any
    ) -> Callable[..., Any]:
        """A method that is called again, and elsewhere, until its first response has come."""

        async def call(request: Any, *, timeout: float | None = None) -> AsyncIterator[Any]:
            loop = asyncio.get_running_loop()
            attempts = self._attempts(method, request, timeout)
            while True:
                left = attempts.begin(loop.time(), is_stream=True)
                channel = self.channel_to(attempts.endpoint)
                attempt = channel.unary_stream(method, request_serializer, response_deserializer)
                has_begun = False
                try:
                    async for response in attempt(request, timeout=left, metadata=self.metadata):
                        has_begun = True
                        yield response
                except grpc.RpcError as error:
                    failure = Failure.of(error)
                else:
                    return
                if has_begun:
                    raise failure.error()
                await asyncio.sleep(attempts.failed(failure, loop.time()))

        return call

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_options: Any
    ) -> Callable[..., Any]:
        """A method that is called once, where the leader was last."""

        def call(requests: Any) -> Any:
            channel = self.channel_to(self.router.current)
            attempt = channel.stream_stream(method, request_serializer, response_deserializer)
            return attempt(requests, metadata=self.metadata)

        return call

    def _attempts(self, method: str, request: Any, timeout: float | None) -> Attempts:
        return Attempts(
            self.router,
            method,
            request,
            timeout=self.timeout if timeout is None else timeout,
            now=asyncio.get_running_loop().time(),
            chance=random.random,
            wait_for_server=self.wait_for_server,
        )
