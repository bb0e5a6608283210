"""When a watch opens another stream, and when it gives up. Without a server."""

from __future__ import annotations

import grpc
import pytest

from atoll_control.api.v1 import watch_pb2
from atoll_control.client import AccessDeniedError, ExhaustedError, ServerFailedError, UnreachableError
from atoll_control.client._attempts import FIRST_PAUSE, MAX_HOPS, Router
from atoll_control.client._failure import ENDED_EARLY, Failure
from atoll_control.client._reconnecting import MAX_LOST_ANSWERS, Reconnecting

AWAY = Failure(grpc.StatusCode.UNAVAILABLE, "Socket closed")
NOT_SENT = Failure(grpc.StatusCode.UNAVAILABLE, "failed to connect", is_not_done=True, was_not_sent=True)
FULL = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watches")
OPENED = watch_pb2.WatchResponse(opened=watch_pb2.WatchOpened())
BOOKMARK = watch_pb2.WatchResponse(bookmark=watch_pb2.Position())


def reconnecting(
    *endpoints: str, patience: float | None = None, wait_for_server: bool = True
) -> tuple[Reconnecting, Router]:
    router = Router(endpoints or ("a:1",))
    it = Reconnecting(
        router, first_patience=10.0, patience=patience, chance=lambda: 0.0, wait_for_server=wait_for_server
    )
    return it, router


def test_the_first_stream_has_so_much_time_and_later_ones_have_all_the_time_there_is() -> None:
    it, _ = reconnecting()
    assert it.failed("a:1", AWAY, 100.0) == FIRST_PAUSE
    with pytest.raises(UnreachableError):
        it.failed("a:1", AWAY, 110.0)
    it.answered(OPENED)
    for seconds in range(1000):
        it.failed("a:1", AWAY, 200.0 + seconds)


def test_patience_runs_from_the_first_failure_and_begins_anew_when_it_is_over() -> None:
    it, _ = reconnecting(patience=5.0)
    it.answered(OPENED)
    it.failed("a:1", AWAY, 100.0)
    it.failed("a:1", AWAY, 104.0)
    with pytest.raises(UnreachableError):
        it.failed("a:1", AWAY, 105.0)
    it.failed("a:1", AWAY, 105.1)
    it.answered(OPENED)
    it.failed("a:1", AWAY, 120.0)


def test_a_leaders_name_is_followed_at_once_but_not_in_circles() -> None:
    it, router = reconnecting("a:1", "b:1")
    pauses = []
    for _ in range(MAX_HOPS + 1):
        here = router.current
        other = "b:1" if here == "a:1" else "a:1"
        pauses.append(it.failed(here, Failure(AWAY.status, "standby", other, is_not_done=True), 100.0))
    assert pauses == [0.0] * MAX_HOPS + [FIRST_PAUSE]


def test_a_server_whose_answer_got_lost_is_asked_again_so_many_times() -> None:
    it, router = reconnecting("a:1", "b:1")
    for _ in range(MAX_LOST_ANSWERS):
        assert it.failed("a:1", ENDED_EARLY, 100.0) == 0.0
        assert router.current == "a:1"
    assert it.failed("a:1", ENDED_EARLY, 100.0) == FIRST_PAUSE
    assert router.current == "b:1"


def test_what_refuses_the_first_stream_may_pass_for_a_later_one() -> None:
    it, _ = reconnecting()
    with pytest.raises(ExhaustedError):
        it.failed("a:1", FULL, 100.0)
    with pytest.raises(ServerFailedError):
        it.failed("a:1", Failure(grpc.StatusCode.INTERNAL, "it broke"), 100.0)
    it.answered(OPENED)
    assert it.failed("a:1", FULL, 100.0) == FIRST_PAUSE
    with pytest.raises(AccessDeniedError):
        it.failed("a:1", Failure(grpc.StatusCode.UNAUTHENTICATED, "revoked"), 100.0)


def test_a_watch_that_does_not_wait_gives_up_when_no_endpoint_can_be_connected_to() -> None:
    it, _ = reconnecting("a:1", "b:1", wait_for_server=False)
    it.failed("a:1", NOT_SENT, 100.0)
    with pytest.raises(UnreachableError):
        it.failed("b:1", NOT_SENT, 100.0)
    it.answered(OPENED)
    for _ in range(3):
        it.failed("a:1", NOT_SENT, 100.0)
        it.failed("b:1", NOT_SENT, 100.0)


def test_a_watch_that_begins_anew_again_and_again_pauses() -> None:
    it, _ = reconnecting()
    assert it.reopened() == 0.0
    it.answered(OPENED)
    assert it.reopened() > 0.0, "a snapshot that was given up is no progress"
    it.answered(BOOKMARK)
    assert it.reopened() == 0.0
