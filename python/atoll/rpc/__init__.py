"""The bridge from gRPC to the loops: receive on many native threads, process on one loop per module."""

from atoll.rpc._authentication import Authentication, Unauthenticated
from atoll.rpc._broadcast import Broadcast, BroadcastStats, SlowSubscriber, SlowSubscribers, Subscription
from atoll.rpc._connection import Connection
from atoll.rpc._context import EOF, Metadatum, ServicerContext, SyncServicerContext
from atoll.rpc._credentials import (
    ServerCertificateConfiguration,
    ServerCertificates,
    ServerCredentials,
    dynamic_ssl_server_credentials,
    ssl_server_certificate_configuration,
    ssl_server_credentials,
    ssl_server_credentials_from_files,
)
from atoll.rpc._factory import server
from atoll.rpc._generic import HandlerCallDetails
from atoll.rpc._health import HealthOptions, ServerHealth
from atoll.rpc._method_options import MethodOptions, options
from atoll.rpc._overload import Overload
from atoll.rpc._serve import serve
from atoll.rpc._server import Server
from atoll.rpc._spread import by_connection, by_metadata
from atoll.rpc._stats import MethodStats, OffenceNote, ServerStats
from atoll.rpc._status import Compression, StatusCode

__all__ = [
    "EOF",
    "Authentication",
    "Broadcast",
    "BroadcastStats",
    "Compression",
    "Connection",
    "HandlerCallDetails",
    "HealthOptions",
    "Metadatum",
    "MethodOptions",
    "MethodStats",
    "OffenceNote",
    "Overload",
    "Server",
    "ServerCertificateConfiguration",
    "ServerCertificates",
    "ServerCredentials",
    "ServerHealth",
    "ServerStats",
    "ServicerContext",
    "SlowSubscriber",
    "SlowSubscribers",
    "StatusCode",
    "Subscription",
    "SyncServicerContext",
    "Unauthenticated",
    "by_connection",
    "by_metadata",
    "dynamic_ssl_server_credentials",
    "options",
    "serve",
    "server",
    "ssl_server_certificate_configuration",
    "ssl_server_credentials",
    "ssl_server_credentials_from_files",
]
