"""How errors of the store answer a call: the table is in docs/design/2026-11-28-control-plane.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from atoll.errors import (
    CommitTooLargeError,
    OutcomeUnknownError,
    OwnerFullError,
    StoreBusyError,
    StoreFullError,
)

if TYPE_CHECKING:
    from atoll.errors import StoreError


def status_of(problem: StoreError) -> grpc.StatusCode:
    """What a call is answered with that the store could not do."""
    if isinstance(problem, (StoreFullError, StoreBusyError, OwnerFullError)):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    if isinstance(problem, CommitTooLargeError):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(problem, OutcomeUnknownError):
        return grpc.StatusCode.ABORTED
    return grpc.StatusCode.UNAVAILABLE
