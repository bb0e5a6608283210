"""Everything that the client raises. Each class says what has happened and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.errors import AtollError

if TYPE_CHECKING:
    import grpc

__all__ = [
    "AccessDeniedError",
    "ClientClosedError",
    "ClientError",
    "ConflictError",
    "ExhaustedError",
    "InvalidRequestError",
    "NotFoundError",
    "ServerFailedError",
    "UnknownOutcomeError",
    "UnreachableError",
]


class ClientError(AtollError):
    """The root of what the client raises.

    Attributes:
        status: what the last attempt ended with; None where there was none.
    """

    def __init__(self, message: str, status: grpc.StatusCode | None = None) -> None:
        """Takes the message, and the status if there is one."""
        super().__init__(message)
        self.status = status


class UnreachableError(ClientError, ConnectionError):
    """No server answered in time, or none of those that did leads. Nothing was changed: try again later.

    Check that a server runs at one of the endpoints, and that it is reached from here.
    """


class UnknownOutcomeError(ClientError):
    """A change was sent, and whether it was done is not known: the connection broke, or no answer came in time.

    Read what it was to change before you send it again. What is safe to repeat is repeated by the client itself, so
    make the change conditional (`expected_revision`, or a check in a transaction) where this must be rare.
    """


class InvalidRequestError(ClientError, ValueError):
    """Your request breaks a rule; the message begins with the field. Sent again, it would be refused again."""


class NotFoundError(ClientError, LookupError):
    """What you asked for is not there: the key, the node, the lease or the task."""


class ConflictError(ClientError):
    """Something else is there already, or has changed: a node at another address, a stale incarnation. Look again."""


class ExhaustedError(ClientError):
    """A bound of the server has been reached, or its disk is full; nothing was changed. Make room, or try later."""


class AccessDeniedError(ClientError, PermissionError):
    """The server does not know your token, or its role does not allow this call. Use another token."""


class ServerFailedError(ClientError):
    """The server failed at a call that changes nothing, or does not know it: its log says why, or it is older."""


class ClientClosedError(ClientError):
    """You used a client that you have closed, or have not entered yet: make calls within its `with` block."""
