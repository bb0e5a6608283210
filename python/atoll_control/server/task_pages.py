"""Pages of `ListTasks`, and the tokens between them.

A token is the number of the last attempt that was looked at, for this run of the server and these filters. Numbers are
never given twice, so the next page begins with the next lower one that is still there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import struct
import zlib
from typing import TYPE_CHECKING, Final

from atoll_control.api.v1 import task_pb2
from atoll_control.server.pages import MAX_PAGE_BYTES
from atoll_control.server.task_table import NewestFirst

if TYPE_CHECKING:
    from collections.abc import Callable

    from atoll_control.server.task_attempts import Attempt
    from atoll_control.server.task_filters import Filters
    from atoll_control.server.task_table import TaskTable

# The limit that a request without one gets, as the proto says.
DEFAULT_TASKS: Final = 100
# The run of the server, the filters, the number.
_TOKEN: Final = struct.Struct(">QIQ")
# So many attempts are made into messages before other handlers get their turn.
MESSAGES_AT_A_TIME: Final = 200
# What a message in a list takes beside its own bytes, at most.
FIELD_BYTES: Final = 4


class TokenError(ValueError):
    """A token is of no use here; the message begins with the name of the field and is for the caller."""


def token_of(run: int, request: task_pb2.ListTasksRequest, number: int) -> str:
    """What a page ends with that others follow."""
    return base64.urlsafe_b64encode(_TOKEN.pack(run, _digest(request), number)).decode()


def number_of(run: int, request: task_pb2.ListTasksRequest) -> int:
    """The number before which the page of a request with a token begins.

    Raises:
        TokenError: the token is none of this run's, or of another listing.
    """
    try:
        of_run, digest, number = _TOKEN.unpack(base64.b64decode(request.page_token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, struct.error):
        raise TokenError("page_token: is none that a page ended with; leave it out to begin with the newest") from None
    if of_run != run:
        raise TokenError(
            "page_token: the server has started anew since that page; leave it out to begin with the newest"
        )
    if digest != _digest(request):
        raise TokenError("page_token: is of a listing with other filters; send the same, or leave the token out")
    return int(number)


def _digest(request: task_pb2.ListTasksRequest) -> int:
    parts = [(wanted.field, wanted.operator, wanted.value) for wanted in request.filters]
    return zlib.crc32(repr(parts).encode())


async def page_of(
    table: TaskTable, request: task_pb2.ListTasksRequest, filters: Filters, run: int, max_looked_at: int
) -> task_pb2.ListTasksResponse:
    """The page that a request asks for, its `dropped` aside.

    Every few attempts other handlers get their turn, so events may come while a page is put together.

    Raises:
        TokenError: the token of the request is of no use here.
    """
    is_first = not request.page_token
    before = table.next_number if is_first else number_of(run, request)
    limit = request.limit or DEFAULT_TASKS
    some_before = _source(table, filters)
    response = task_pb2.ListTasksResponse()
    size = 0
    looked_at = 0
    # Where the next page begins, once this one is full. Behind a full first page, matches are only counted.
    next_page: int | None = None
    while some := some_before(before):
        for attempt in some:
            if looked_at == max_looked_at or (next_page is not None and not is_first):
                response.next_page_token = token_of(run, request, before if next_page is None else next_page)
                return response
            looked_at += 1
            if filters.match(attempt):
                response.matched += 1
                if next_page is None:
                    message = attempt.message()
                    size += message.ByteSize() + FIELD_BYTES
                    if response.attempts and size > MAX_PAGE_BYTES:
                        next_page = attempt.number + 1
                    else:
                        response.attempts.append(message)
                        if len(response.attempts) == limit:
                            next_page = attempt.number
                        elif len(response.attempts) % MESSAGES_AT_A_TIME == 0:
                            await asyncio.sleep(0)
            before = attempt.number
        await asyncio.sleep(0)
    if next_page is not None and response.matched > len(response.attempts):
        response.next_page_token = token_of(run, request, next_page)
    return response


def _source(table: TaskTable, filters: Filters) -> Callable[[int], list[Attempt]]:
    """What gives attempts with lower numbers than one, the highest first: as few as the filters allow."""
    if (task_id := filters.task_id) is not None:

        def of_task(number: int) -> list[Attempt]:
            attempts = [attempt for attempt in table.attempts_of(task_id) if attempt.number < number]
            return sorted(attempts, key=lambda attempt: -attempt.number)

        return of_task
    if (job_id := filters.job_id) is not None:
        job = table.job(job_id)
        return NewestFirst().before if job is None else job.newest_first.before
    return table.newest_first.before
