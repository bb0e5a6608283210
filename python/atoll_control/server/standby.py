"""`Standby`: what a server answers while another one leads: where that is."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from atoll import IoContext, rpc
from atoll_control.api.times import duration
from atoll_control.api.v1 import admin_pb2, admin_pb2_grpc
from atoll_control.server.access import PUBLIC_FILES
from atoll_control.server.calls import NOTHING_DONE
from atoll_control.server.security import add_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

    from atoll_control.server.settings import ServerSettings

# In the trailing metadata of what a standby refuses: "host:port" of the leader, where it is known.
LEADER: Final = "atoll-leader"

_ADMIN: Final = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]


class Standby(admin_pb2_grpc.AdminServiceServicer):
    """A server that tells who leads, and does nothing else. On the loop that starts it.

    It asks nobody for a token: it does not know the tokens, which the leader has, and what it tells is where that is.

    Attributes:
        leader_address: "host:port" of the leader; empty while it is not known.
        problem: why the leader is not known, in words.
        role: `SERVER_ROLE_STANDBY`, or `SERVER_ROLE_RECOVERING` while it loads the store to lead itself.
    """

    def __init__(self, settings: ServerSettings, server_id: str) -> None:
        """Takes what the server was told, and its name."""
        self.leader_address = ""
        self.problem = ""
        self.role: admin_pb2.ServerRole.ValueType = admin_pb2.SERVER_ROLE_STANDBY
        self._server_id = server_id
        self._security = settings.security
        self._server = rpc.server(network_threads=settings.network_threads)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self, self._server)
        for file in PUBLIC_FILES:
            for service in file.services_by_name.values():
                if service is not _ADMIN:
                    self._server.add_registered_method_handlers(service.full_name, self._handlers(service))
        self._started = IoContext.current().now()

    def bind(self, listen: str) -> str:
        """Takes a port, and returns the address with it.

        Raises:
            SecuritySettingsError: a file of the settings can't be used.
            atoll.errors.BindError: the address is in use or not this machine's.
        """
        return f"{listen.rpartition(':')[0]}:{add_port(self._server, listen, self._security)}"

    async def start(self) -> None:
        """Begins to answer."""
        await self._server.start()

    async def stop(self) -> None:
        """Gives the port back; who is connected looks again where the leader is."""
        await self._server.stop(None)

    async def GetServer(
        self,
        request: admin_pb2.GetServerRequest,  # noqa: ARG002 - the signature is gRPC's
        context: grpc.aio.ServicerContext[admin_pb2.GetServerRequest, admin_pb2.GetServerResponse],  # noqa: ARG002
    ) -> admin_pb2.GetServerResponse:
        """Tells what the server is."""
        return admin_pb2.GetServerResponse(
            server_id=self._server_id,
            version=version("atoll"),
            role=self.role,
            leader_address=self.leader_address,
            engine="etcd",
            uptime=duration(IoContext.current().now() - self._started),
        )

    async def Backup(
        self,
        request: admin_pb2.BackupRequest,  # noqa: ARG002 - the signature is gRPC's
        context: grpc.aio.ServicerContext[admin_pb2.BackupRequest, admin_pb2.BackupChunk],
    ) -> AsyncIterator[admin_pb2.BackupChunk]:
        """The leader has the store."""
        await self._refuse(context)
        yield admin_pb2.BackupChunk()

    async def _refuse(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if self.role == admin_pb2.SERVER_ROLE_RECOVERING:
            message = "this server is taking over and loads the store: try again"
        elif self.leader_address:
            message = f"this server is a standby; the leader is at {self.leader_address}"
        else:
            message = (
                f"this server is a standby, and does not know who leads: {self.problem or 'nobody does yet'}; try again"
            )
        leader = ((LEADER, self.leader_address),) if self.leader_address else ()
        await context.abort(grpc.StatusCode.UNAVAILABLE, message, trailing_metadata=(*NOTHING_DONE, *leader))

    def _handlers(self, service: ServiceDescriptor) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {method.name: self._handler(method) for method in service.methods}

    def _handler(self, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        """Refuses whatever comes, unread."""

        async def one(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            await self._refuse(context)

        async def many(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
            await self._refuse(context)
            yield b""

        match method.client_streaming, method.server_streaming:
            case False, False:
                return grpc.unary_unary_rpc_method_handler(one)
            case False, True:
                return grpc.unary_stream_rpc_method_handler(many)
            case True, False:
                return grpc.stream_unary_rpc_method_handler(one)
            case _:
                return grpc.stream_stream_rpc_method_handler(many)
