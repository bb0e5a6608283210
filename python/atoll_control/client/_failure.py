"""What an attempt ended with, and whether the server may have done something.

Any thread may call what is here; nothing is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc

from atoll_control.client.errors import (
    AccessDeniedError,
    ConflictError,
    ExhaustedError,
    InvalidRequestError,
    NotFoundError,
    ServerFailedError,
)

if TYPE_CHECKING:
    from atoll_control.client.errors import ClientError

# In the trailing metadata of a server's UNAVAILABLE: where the leader is, and that nothing was done.
LEADER: Final = "atoll-leader"
NOT_DONE: Final = "atoll-not-done"

# How grpc's own words begin when a call had no connection to go on, so that nothing was sent. Should they change, a
# change that was not sent is taken for one whose outcome is not known: the safe side.
_NOT_SENT: Final = ("failed to connect to all addresses", "errors resolving ", "DNS resolution failed")

# grpc.aio's own words when a call was answered before all its requests had been sent; the answer is lost.
_ENDED_EARLY: Final = "Internal error from Core"

# The server has looked at the call and refused it; all other statuses leave it open what was done.
_REFUSALS: Final[dict[grpc.StatusCode, type[ClientError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: ConflictError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ExhaustedError,
    grpc.StatusCode.UNAUTHENTICATED: AccessDeniedError,
    grpc.StatusCode.PERMISSION_DENIED: AccessDeniedError,
    grpc.StatusCode.UNIMPLEMENTED: ServerFailedError,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of an attempt that was not answered.

    Attributes:
        status: grpc's.
        details: the words that came with it.
        leader: where the leader is, if the server has told.
        is_not_done: certainly nothing was done.
        was_not_sent: no connection could be made.
        answer_is_lost: the server has ended a stream, and what it said is not known: ask it again.
    """

    status: grpc.StatusCode
    details: str
    leader: str = ""
    is_not_done: bool = False
    was_not_sent: bool = False
    answer_is_lost: bool = False

    @classmethod
    def of(cls, error: grpc.RpcError) -> Failure:
        """Reads grpc's error."""
        # Both of grpc's kinds of errors are calls, too, and only the classes of calls have these methods.
        call: Any = error
        status: grpc.StatusCode = call.code()
        details: str = call.details() or status.name
        if status is grpc.StatusCode.INTERNAL and details.startswith(_ENDED_EARLY):
            return ENDED_EARLY
        if status is not grpc.StatusCode.UNAVAILABLE:
            return cls(status, details)
        told = {key: value for key, value in call.trailing_metadata() or () if isinstance(value, str)}
        was_not_sent = details.startswith(_NOT_SENT)
        is_not_done = was_not_sent or LEADER in told or NOT_DONE in told
        return cls(status, details, told.get(LEADER, ""), is_not_done, was_not_sent)

    @property
    def is_refusal(self) -> bool:
        """The server has decided that it won't do it."""
        return self.status in _REFUSALS

    def error(self) -> ClientError:
        """What to raise for a call that the server has refused, or that changes nothing and failed."""
        return _REFUSALS.get(self.status, ServerFailedError)(self.details, self.status)


ENDED_EARLY: Final = Failure(
    grpc.StatusCode.UNAVAILABLE, "the server ended the stream before its requests were sent", answer_is_lost=True
)
