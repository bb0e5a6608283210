"""Where the client sends a call, when it sends it again, and what it raises. Without a server."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from atoll_control.api.v1 import admin_pb2, health_pb2, kv_pb2, node_pb2, task_pb2, token_pb2, watch_pb2
from atoll_control.client import (
    AccessDeniedError,
    ClientError,
    ConflictError,
    ExhaustedError,
    InvalidRequestError,
    NotFoundError,
    ServerFailedError,
    UnknownOutcomeError,
    UnreachableError,
)
from atoll_control.client._attempts import FIRST_PAUSE, LONGEST_PAUSE, MAX_HOPS, Attempts, Router, pause
from atoll_control.client._failure import Failure
from atoll_control.client._options import parse_endpoints
from atoll_control.client._safety import Repeat, repeat_of

GET = "/atoll.v1.KvService/Get"
PUT = "/atoll.v1.KvService/Put"
TRANSACT = "/atoll.v1.KvService/Transact"

BROKEN = Failure(grpc.StatusCode.UNAVAILABLE, "Socket closed")
NOT_SENT = Failure(grpc.StatusCode.UNAVAILABLE, "failed to connect", is_not_done=True, was_not_sent=True)
STARTING = Failure(grpc.StatusCode.UNAVAILABLE, "the server is starting", is_not_done=True)
LATE = Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
PLAIN = kv_pb2.PutRequest(key=b"k", overwrite=True)
CONDITIONAL = kv_pb2.PutRequest(key=b"k", expected_revision=4)


def standby(leader: str) -> Failure:
    return Failure(grpc.StatusCode.UNAVAILABLE, "not the leader", leader, is_not_done=True)


def attempts(
    method: str = GET,
    request: Any = None,
    *,
    endpoints: tuple[str, ...] = ("a:1",),
    router: Router | None = None,
    timeout: float = 10.0,
    wait_for_server: bool = True,
) -> Attempts:
    return Attempts(
        router or Router(endpoints),
        method,
        request or kv_pb2.GetRequest(key=b"k"),
        timeout=timeout,
        now=100.0,
        chance=lambda: 0.0,
        wait_for_server=wait_for_server,
    )


def test_a_standbys_word_is_followed_at_once_and_remembered() -> None:
    router = Router(("a:1", "b:1"))
    first = attempts(router=router)
    first.begin(100.0)
    assert first.failed(standby("c:1"), 100.0) == 0
    first.begin(100.0)
    assert first.endpoint == router.current == "c:1"
    assert attempts(router=router).endpoint == "c:1"


def test_a_leader_that_is_gone_has_the_other_endpoints_asked() -> None:
    router = Router(("a:1", "b:1"))
    router.failed("a:1", standby("c:1"))
    asked = []
    for _ in range(3):
        asked.append(router.current)
        router.failed(router.current, BROKEN)
    assert asked == ["c:1", "b:1", "a:1"]


def test_what_several_calls_have_seen_of_one_server_is_taken_once() -> None:
    router = Router(("a:1", "b:1", "c:1"))
    router.failed("a:1", BROKEN)
    router.failed("a:1", BROKEN)
    assert router.current == "b:1"


def test_words_that_lead_in_circles_are_not_followed_without_a_pause() -> None:
    call = attempts(endpoints=("a:1", "b:1"))
    pauses = []
    for _ in range(MAX_HOPS + 2):
        call.begin(100.0)
        pauses.append(call.failed(standby("b:1" if call.endpoint == "a:1" else "a:1"), 100.0))
    assert pauses[:MAX_HOPS] == [0.0] * MAX_HOPS
    assert pauses[MAX_HOPS:] == [FIRST_PAUSE, 2 * FIRST_PAUSE]


def test_pauses_grow_to_a_bound_and_are_shortened_by_chance() -> None:
    assert [pause(number, 0.0) for number in (1, 2, 3)] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pause(1_000_000, 0.0) == LONGEST_PAUSE
    assert pause(1_000_000, 1.0) == LONGEST_PAUSE / 2


@pytest.mark.parametrize("failure", [BROKEN, NOT_SENT, STARTING])
def test_a_read_is_repeated_until_its_time_is_over(failure: Failure) -> None:
    call = attempts(endpoints=("a:1", "b:1"))
    asked = set()
    now = 100.0
    while now + LONGEST_PAUSE < 110:
        assert call.begin(now) <= 110.0 - now
        asked.add(call.endpoint)
        now += call.failed(failure, now)
    with pytest.raises(UnreachableError, match="no answer from"):
        call.failed(failure, 109.5)
    assert asked == {"a:1", "b:1"}


def test_a_change_is_repeated_when_nothing_was_done() -> None:
    for failure in (NOT_SENT, STARTING, standby("b:1")):
        call = attempts(PUT, PLAIN)
        call.begin(100.0)
        call.failed(failure, 100.0)
        call.checked(kv_pb2.PutResponse(applied=False))


@pytest.mark.parametrize(
    "failure",
    [
        BROKEN,
        LATE,
        Failure(grpc.StatusCode.ABORTED, "outcome unknown"),
        Failure(grpc.StatusCode.INTERNAL, "it broke"),
        Failure(grpc.StatusCode.UNKNOWN, "it broke"),
        Failure(grpc.StatusCode.CANCELLED, "stopped"),
    ],
)
def test_a_plain_change_is_never_repeated_when_it_may_have_been_done(failure: Failure) -> None:
    call = attempts(PUT, PLAIN)
    call.begin(100.0)
    with pytest.raises(UnknownOutcomeError, match=r"^Put: .* read before you send it again"):
        call.failed(failure, 100.0)


def test_a_conditional_change_is_repeated_and_its_second_answer_is_not_taken_for_the_first_ones() -> None:
    call = attempts(PUT, CONDITIONAL)
    call.begin(100.0)
    call.failed(BROKEN, 100.0)
    call.checked(kv_pb2.PutResponse(applied=True, revision=5))
    with pytest.raises(UnknownOutcomeError):
        call.checked(kv_pb2.PutResponse(applied=False, revision=5))
    with pytest.raises(UnknownOutcomeError):
        call.failed(Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "the disk is full"), 100.0)


def test_a_condition_that_did_not_hold_is_an_answer_where_nothing_is_in_doubt() -> None:
    call = attempts(PUT, CONDITIONAL)
    call.begin(100.0)
    call.failed(STARTING, 100.0)
    call.checked(kv_pb2.PutResponse(applied=False, revision=5))


def test_what_was_in_doubt_once_stays_so_when_the_time_is_over() -> None:
    call = attempts(PUT, CONDITIONAL, timeout=0.06)
    call.begin(100.0)
    call.failed(BROKEN, 100.0)
    call.begin(100.05)
    with pytest.raises(UnknownOutcomeError):
        call.failed(NOT_SENT, 100.05)


def test_a_server_that_answers_nothing_is_left_for_another_one_by_what_may_be_repeated() -> None:
    call = attempts(endpoints=("a:1", "b:1"), timeout=9.0)
    assert call.begin(100.0) == 3.0
    call.failed(LATE, 103.0)
    call.begin(103.05)
    assert call.endpoint == "b:1"
    assert attempts(timeout=9.0).begin(100.0) == 9.0, "there is no other"
    assert attempts(PUT, PLAIN, endpoints=("a:1", "b:1"), timeout=9.0).begin(100.0) == 9.0, "nobody knows what it did"


def test_a_client_that_does_not_wait_gives_up_when_no_endpoint_can_be_connected_to() -> None:
    call = attempts(endpoints=("a:1", "b:1"), wait_for_server=False)
    call.begin(100.0)
    call.failed(NOT_SENT, 100.0)
    call.begin(100.1)
    with pytest.raises(UnreachableError, match=r"no answer from b:1 \(nor from a:1\)"):
        call.failed(NOT_SENT, 100.1)
    waiting = attempts(endpoints=("a:1", "b:1"), wait_for_server=False)
    for failure in (NOT_SENT, STARTING, NOT_SENT):
        waiting.begin(100.0)
        waiting.failed(failure, 100.0)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("INVALID_ARGUMENT", InvalidRequestError),
        ("NOT_FOUND", NotFoundError),
        ("ALREADY_EXISTS", ConflictError),
        ("FAILED_PRECONDITION", ConflictError),
        ("RESOURCE_EXHAUSTED", ExhaustedError),
        ("UNAUTHENTICATED", AccessDeniedError),
        ("PERMISSION_DENIED", AccessDeniedError),
        ("UNIMPLEMENTED", ServerFailedError),
    ],
)
def test_a_refusal_is_raised_as_what_it_is(status: str, kind: type[ClientError]) -> None:
    code = grpc.StatusCode[status]
    for method, request in ((GET, kv_pb2.GetRequest(key=b"k")), (PUT, PLAIN)):
        call = attempts(method, request)
        call.begin(100.0)
        with pytest.raises(kind, match="why") as caught:
            call.failed(Failure(code, "why"), 100.0)
        assert type(caught.value) is kind
        assert caught.value.status is code


def test_a_read_at_which_the_server_fails_is_not_repeated() -> None:
    call = attempts()
    call.begin(100.0)
    with pytest.raises(ServerFailedError):
        call.failed(Failure(grpc.StatusCode.INTERNAL, "it broke"), 100.0)


class Ended(grpc.RpcError):
    """A call's end as grpc has it."""

    def __init__(self, details: str, *metadata: tuple[str, str], status: str = "UNAVAILABLE") -> None:
        super().__init__()
        self._told = grpc.StatusCode[status], details, metadata

    def code(self) -> grpc.StatusCode:
        return self._told[0]

    def details(self) -> str:
        return self._told[1]

    def trailing_metadata(self) -> Any:
        return self._told[2]


def test_what_a_server_says_is_told_from_a_connection_that_broke() -> None:
    assert not Failure.of(Ended("Socket closed")).is_not_done
    assert Failure.of(Ended("it starts", ("atoll-not-done", "1"))).is_not_done
    hint = Failure.of(Ended("standby", ("atoll-leader", "b:1")))
    assert (hint.is_not_done, hint.leader) == (True, "b:1")
    refused = Failure.of(Ended("failed to connect to all addresses; last error: UNKNOWN: refused"))
    assert (refused.is_not_done, refused.was_not_sent) == (True, True)
    assert not Failure.of(Ended("it ended", ("atoll-not-done", "1"), status="INTERNAL")).is_not_done


# -- what may be repeated ----------------------------------------------------------------------------------------------

ONCE = {"KvService/Put", "KvService/Delete", "KvService/Transact", "NodeService/SetConditions", "TopicService/Publish"}


def test_every_method_is_known_and_those_that_are_not_safe_to_repeat_are_these() -> None:
    protos = (admin_pb2, health_pb2, kv_pb2, node_pb2, task_pb2, token_pb2, watch_pb2)
    never = set()
    for proto in protos:
        for service in proto.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                request = method.input_type._concrete_class()
                if isinstance(request, kv_pb2.PutRequest):
                    request.overwrite = True
                if repeat_of(f"/{service.full_name}/{method.name}", request) is Repeat.NEVER:
                    never.add(f"{service.name}/{method.name}")
    # A watch goes on by itself; what operators do is seen by operators.
    never.remove("WatchService/Watch")
    assert never == ONCE | {"HealthService/DeclareDead", "TokenService/CreateToken", "TokenService/RevokeToken"}


def test_puts_and_deletes_are_repeatable_when_they_have_a_condition() -> None:
    assert repeat_of(PUT, kv_pb2.PutRequest(key=b"k")) is Repeat.CONDITIONAL, "only if it is not there"
    assert repeat_of(PUT, kv_pb2.PutRequest(key=b"k", overwrite=True, expected_revision=0)) is Repeat.CONDITIONAL
    delete = "/atoll.v1.KvService/Delete"
    assert repeat_of(delete, kv_pb2.DeleteRequest(key=b"k", expected_revision=3)) is Repeat.CONDITIONAL
    assert repeat_of(delete, kv_pb2.DeleteRequest(key=b"k")) is Repeat.NEVER


def test_task_events_are_repeatable_without_counts() -> None:
    method = "/atoll.v1.TaskService/AddTaskEvents"
    assert repeat_of(method, task_pb2.AddTaskEventsRequest(events=[task_pb2.TaskEvent(job_id="j")])) is Repeat.SAFE
    assert repeat_of(method, task_pb2.AddTaskEventsRequest(dropped={"j": 1})) is Repeat.NEVER


PUT_K = kv_pb2.TransactOperation(put=kv_pb2.PutRequest(key=b"k"))
PUT_OTHER = kv_pb2.TransactOperation(put=kv_pb2.PutRequest(key=b"k", namespace="other"))
DELETE_K = kv_pb2.TransactOperation(delete=kv_pb2.DeleteRequest(key=b"k"))
DELETE_ALL = kv_pb2.TransactOperation(delete=kv_pb2.DeleteRequest(prefix=True))


@pytest.mark.parametrize(
    ("check", "operations", "is_repeatable"),
    [
        (kv_pb2.TransactCheck(key=b"k", revision=3), [PUT_K], True),
        (kv_pb2.TransactCheck(key=b"k"), [PUT_K], True),
        (kv_pb2.TransactCheck(key=b"k", exists=True), [PUT_K], False),
        (kv_pb2.TransactCheck(key=b"k", revision=3), [PUT_OTHER], False),
        (kv_pb2.TransactCheck(key=b"k", revision=3), [DELETE_K], True),
        (kv_pb2.TransactCheck(key=b"k"), [DELETE_K], False),
        (kv_pb2.TransactCheck(key=b"k"), [PUT_K, DELETE_ALL], False),
        (kv_pb2.TransactCheck(key=b"k", revision=3), [PUT_K, DELETE_ALL], True),
        (kv_pb2.TransactCheck(key=b"k"), [DELETE_ALL, PUT_K], True),
    ],
)
def test_a_transaction_is_repeatable_when_it_makes_its_own_check_fail(
    check: kv_pb2.TransactCheck,
    operations: list[kv_pb2.TransactOperation],
    is_repeatable: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    request = kv_pb2.TransactRequest(checks=[check], operations=operations)
    assert (repeat_of(TRANSACT, request) is Repeat.CONDITIONAL) is is_repeatable


# -- endpoints ---------------------------------------------------------------------------------------------------------


def test_endpoints_are_one_or_several() -> None:
    assert parse_endpoints("127.0.0.1:1") == ("127.0.0.1:1",)
    assert parse_endpoints("a.example:1, [::1]:2,a.example:1") == ("a.example:1", "[::1]:2")
    assert parse_endpoints(["a:1", "b:2,c:3"]) == ("a:1", "b:2", "c:3")


@pytest.mark.parametrize("wrong", ["", [], "a", "a:b", "a:99999", "http://a:1", "::1:5"])
def test_what_is_no_endpoint_is_refused_with_an_example(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^endpoints: .*127\.0\.0\.1:50051"):
        parse_endpoints(wrong)
