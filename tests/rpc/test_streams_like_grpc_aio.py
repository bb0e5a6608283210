"""What clients and handlers of streaming calls see of Atoll is what they see of stock grpc.aio, in other processes.

Where the two differ on purpose, a test of its own says how and why.
"""

import inspect
import itertools
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest
from tests.rpc.conftest import LOOPS
from tests.rpc.stream_behaviours import KINDS, MEGABYTE, RECEIVE_LIMIT, SERVICE, StreamUnary, UnaryStream, names
from tests.rpc.support import BehavioursServer, ClientProcess
from tests.rpc.test_like_grpc_aio import SERIALIZING, STATUSCODES

Step = tuple[Any, ...]
Script = tuple[Step, ...]

TO_THE_END: Script = (("read_all",),)
ONE: Script = (("write", b"one"),)
ASK: Script = (("write", b"?"), ("done_writing",))
THREE: Script = (("write", b"one"), ("write", b"two"), ("write", b"three"), ("done_writing",))
PING_PONG: Script = (*ONE, ("read",), ("write", b"two"), ("read",), ("done_writing",))
FULL_DUPLEX: Script = (("write", bytes(1000), 500), ("done_writing",))
A_BAD_ONE: Script = (*ONE, ("write", b"bad"))
EMPTY_ONES: Script = (("write", b"", 3), ("done_writing",))
LARGE_ONES: Script = (("write", bytes(4 * MEGABYTE)), ("write", bytes(RECEIVE_LIMIT)), ("done_writing",))
TOO_LARGE: Script = (("write", b"one"), ("write", bytes(RECEIVE_LIMIT + 1)))

METHODS = [f"{kind.__name__}.{name}" for kind in KINDS for name in names(kind)]
NOTING = {
    f"{kind.__name__}.{name}"
    for kind in KINDS
    for name in names(kind)
    if "note(" in inspect.getsource(vars(kind)[name])
}
# grpcio's client makes up a status of its own when it writes to a call that has ended. So it writes nothing to these.
ENDS_AT_ONCE = {
    "StreamUnary.CoroReadAfterAbort",
    "StreamUnary.DefNothingRead",
    "StreamUnary.IterNothingRead",
    "StreamUnary.IterReturnsANumber",
    "StreamUnary.IterWritesTheReply",
    "StreamStream.DefIgnoresRequests",
    "StreamStream.GenIgnoresRequests",
}
# And one message to these.
ENDS_EARLY = {
    "StreamUnary.DefFirstOnly",
    "StreamUnary.DefRaise",
    "StreamUnary.IterAbortInTheMiddle",
    "StreamUnary.IterFirstOnly",
    "StreamUnary.IterRaiseInTheMiddle",
    "StreamStream.GenAbortInTheMiddle",
    "StreamStream.GenRaiseInTheMiddle",
}
# Those that a client cancels or that run into a deadline have tests of their own.
OWN_TESTS = {
    method for method in METHODS if method.endswith(("Waits", "GenFloods", "WhenCancelled", "WritesFromTasks"))
}


@dataclass(frozen=True)
class Seen:
    """What a client sees of a streaming call, and what its handler noted."""

    replies: tuple[object, ...]
    code: str
    details: str
    initial: object
    trailing: object
    noted: bytes | None


NOT_A_MESSAGE = (b"first",), *SERIALIZING
# Method: why, and what clients see of Atoll and of grpc.aio.
DIFFERENT: dict[str, tuple[str, tuple[object, str, str], tuple[object, str, str]]] = {
    "UnaryStream.GenYieldsNone": (
        "without a serializer grpc.aio takes None for an empty message, which hides a mistake",
        NOT_A_MESSAGE,
        ((b"first", b"", b"last"), "OK", ""),
    ),
    "UnaryStream.GenYieldsText": (
        "without a serializer grpc.aio encodes text; a reply is bytes",
        NOT_A_MESSAGE,
        ((b"first", b"text"), "OK", ""),
    ),
    "UnaryStream.GenYieldsANumber": (
        STATUSCODES,
        NOT_A_MESSAGE,
        ((b"first",), "UNKNOWN", "Unexpected <class 'TypeError'>: Expected bytes, got int"),
    ),
    "UnaryStream.DefYieldsANumber": (
        STATUSCODES,
        NOT_A_MESSAGE,
        ((b"first",), "UNKNOWN", "Unexpected <class 'TypeError'>: Expected bytes, got int"),
    ),
    "UnaryStream.GenBadReply": (
        STATUSCODES,
        NOT_A_MESSAGE,
        ((b"first",), "UNKNOWN", "Unexpected <class 'ValueError'>: not to this converter's liking"),
    ),
    "StreamUnary.IterBadRequest": (
        STATUSCODES,
        ((), "INTERNAL", "Exception deserializing request!"),
        ((), "UNKNOWN", "Unexpected <class 'ValueError'>: not to this converter's liking"),
    ),
    "StreamStream.GenBadRequest": (
        STATUSCODES,
        ((b"one",), "INTERNAL", "Exception deserializing request!"),
        ((b"one",), "UNKNOWN", "Unexpected <class 'ValueError'>: not to this converter's liking"),
    ),
    "StreamUnary.IterReturnsNone": (
        "without a serializer grpc.aio takes None for an empty message, which hides a mistake",
        ((), *SERIALIZING),
        ((b"",), "OK", ""),
    ),
    "StreamUnary.IterReturnsANumber": (
        STATUSCODES,
        ((), *SERIALIZING),
        ((), "UNKNOWN", "Unexpected <class 'TypeError'>: Expected bytes, got int"),
    ),
    "StreamUnary.IterCode": (
        "an error has no message; grpc.aio sends an empty one before it, which clients of a unary reply drop",
        ((), "ALREADY_EXISTS", "the details"),
        ((b"",), "ALREADY_EXISTS", "the details"),
    ),
    "StreamUnary.IterWritesTheReply": (
        "a method that answers with one message can't write; grpc.aio sends two, which is an error at the client",
        (
            (),
            "UNKNOWN",
            (
                "Unexpected <class 'atoll.rpc._grpcio.GrpcUsageError'>: this method answers with one message: return "
                "it from the handler instead of writing it"
            ),
        ),
        ((b"written", b"returned"), "OK", ""),
    ),
}


@pytest.fixture(scope="module")
def stock() -> Iterator[str]:
    with BehavioursServer("stream_behaviours", "aio", "asyncio") as target:
        yield target


@pytest.fixture(scope="module", params=list(LOOPS))
def ours(request: pytest.FixtureRequest) -> Iterator[str]:
    with BehavioursServer("stream_behaviours", "atoll", request.param) as target:
        yield target


_keys = itertools.count()


def see(client: ClientProcess, target: str, method: str, script: Script, timeout: float = 20) -> Seen:
    key = str(next(_keys))
    stream = client.open(target, f"/{SERVICE}/{method}", metadata=(("key", key),), timeout=timeout)
    results: list[tuple[object, Future[Any]]] = []
    for step, *arguments in script:
        if step == "when_noted":
            word = f"{key} {arguments[0]}".encode()
            client.start(target, f"/{SERVICE}/Notes", word, timeout=20).done.result(30)
        else:
            results.append((step, stream.step(step, *arguments)))
    end = stream.step("end")
    replies: list[object] = []
    for step, result in results:
        if step == "read_all":
            replies += result.result(60)
        elif step in {"read", "initial"}:
            replies.append(result.result(60))
    code, details, initial, trailing = end.result(60)
    noted = None
    if method in NOTING:
        noted = client.start(target, f"/{SERVICE}/Notes", key.encode(), timeout=20).done.result(30).reply
    return Seen(tuple(replies), code, details, initial, trailing, noted)


def script_of(method: str) -> Script:
    if method.startswith(UnaryStream.__name__):
        return ASK + TO_THE_END
    if "BadRequest" in method:
        return A_BAD_ONE + ((("done_writing",),) if "Caught" in method else ()) + TO_THE_END
    if method in ENDS_AT_ONCE:
        return TO_THE_END
    return (ONE if method in ENDS_EARLY else THREE) + TO_THE_END


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(DIFFERENT) - OWN_TESTS))
def test_a_streams_client_and_handler_see_the_same_of_atoll_and_of_grpc_aio(
    client: ClientProcess, stock: str, ours: str, method: str
) -> None:
    expected = see(client, stock, method, script_of(method))
    assert see(client, ours, method, script_of(method)) == expected
    assert expected.code != "DEADLINE_EXCEEDED"
    assert expected.noted is None or b"end" in expected.noted


@pytest.mark.parametrize("method", sorted(DIFFERENT))
def test_where_streams_differ_it_is_on_purpose(client: ClientProcess, stock: str, ours: str, method: str) -> None:
    _reason, (our_replies, our_code, our_details), (stock_replies, stock_code, stock_details) = DIFFERENT[method]
    seen = see(client, ours, method, script_of(method))
    assert (seen.replies, seen.code, seen.details) == (our_replies, our_code, our_details)
    expected = see(client, stock, method, script_of(method))
    assert (expected.replies, expected.code) == (stock_replies, stock_code)
    assert stock_details in expected.details


def test_several_tasks_may_write_each_message_whole(client: ClientProcess, ours: str) -> None:
    # Where two write at once, grpc.aio ends the call, with one status or another.
    method = "UnaryStream.CoroWritesFromTasks"
    seen = see(client, ours, method, script_of(method))
    assert (seen.replies, seen.code) == ((b"m",) * 6, "OK")


READERS = sorted(
    method
    for method in set(METHODS) - set(DIFFERENT) - OWN_TESTS
    if not method.startswith(UnaryStream.__name__) and method not in ENDS_EARLY | ENDS_AT_ONCE
)


@pytest.mark.parametrize("method", [method for method in READERS if "ByHand" not in method and "AndRead" not in method])
def test_an_empty_request_stream_looks_the_same(client: ClientProcess, stock: str, ours: str, method: str) -> None:
    script = (("done_writing",), *TO_THE_END)
    if "ReadWithATimeout" in method:
        script = (*EMPTY_ONES, *TO_THE_END)
    assert see(client, ours, method, script) == see(client, stock, method, script)


ECHOES = ["GenEcho", "IterEcho", "CoroEcho", "DefEcho"]


@pytest.mark.parametrize("method", [*ECHOES, "GenGreetsFirst", "CoroBothAtOnce"])
@pytest.mark.parametrize("script", [PING_PONG, FULL_DUPLEX, EMPTY_ONES], ids=["ping-pong", "full duplex", "empty"])
def test_requests_and_replies_at_the_same_time_look_the_same(
    client: ClientProcess, stock: str, ours: str, method: str, script: Script
) -> None:
    method, script = f"StreamStream.{method}", script + TO_THE_END
    expected = see(client, stock, method, script)
    assert expected.code == "OK"
    assert see(client, ours, method, script) == expected


@pytest.mark.parametrize("script", [LARGE_ONES, EMPTY_ONES], ids=["large", "empty"])
def test_messages_of_all_sizes_look_the_same(client: ClientProcess, stock: str, ours: str, script: Script) -> None:
    method, script = "StreamUnary.IterSizes", script + TO_THE_END
    expected = see(client, stock, method, script)
    assert expected.code == "OK"
    assert see(client, ours, method, script) == expected


@pytest.mark.parametrize("method", ["StreamUnary.IterSizes", "StreamStream.CoroEcho", "StreamStream.DefEcho"])
def test_a_request_message_over_the_limit_is_exhausting(
    client: ClientProcess, stock: str, ours: str, method: str
) -> None:
    script = TOO_LARGE + TO_THE_END
    for target in (stock, ours):
        seen = see(client, target, method, script)
        assert seen.code == "RESOURCE_EXHAUSTED"
        assert f"({RECEIVE_LIMIT + 1} vs. {RECEIVE_LIMIT})" in seen.details


def test_initial_metadata_comes_before_the_first_message_is_asked_for(
    client: ClientProcess, stock: str, ours: str
) -> None:
    method, script = "UnaryStream.GenInitialMetadata", (*ASK, ("initial",), *TO_THE_END)
    expected = see(client, stock, method, script)
    assert expected.replies[0] == (("early", "bird"),)
    assert see(client, ours, method, script) == expected


CANCELLING: dict[str, Script] = {
    "UnaryStream.GenWaits": (*ASK, ("read",), ("when_noted", "waits"), ("cancel",)),
    "UnaryStream.GenFloods": (*ASK, ("read",), ("cancel",)),
    "StreamStream.GenCallbackWhenCancelled": (*ONE, ("read",), ("cancel",)),
}


@pytest.mark.parametrize("method", sorted(CANCELLING))
def test_a_cancelled_streams_handler_ends_alike(client: ClientProcess, stock: str, ours: str, method: str) -> None:
    expected = see(client, stock, method, CANCELLING[method])
    assert expected.code == "CANCELLED"
    assert expected.noted is not None
    assert b"end" in expected.noted
    assert see(client, ours, method, CANCELLING[method]) == expected


@pytest.mark.parametrize("method", ["UnaryStream.GenWaits", "UnaryStream.GenFloods"])
def test_a_deadline_ends_a_streams_handler_alike(client: ClientProcess, stock: str, ours: str, method: str) -> None:
    script = (*ASK, ("read",))
    for target in (stock, ours):
        seen = see(client, target, method, script, timeout=1)
        assert seen.code == "DEADLINE_EXCEEDED"
        assert seen.noted is not None
        assert b"end" in seen.noted


@pytest.mark.parametrize("method", ["StreamUnary.IterWaits", "StreamUnary.CoroWaits", "StreamStream.GenWaits"])
def test_who_reads_when_the_client_cancels_sees_a_cancellation_and_not_the_end(
    client: ClientProcess, ours: str, method: str
) -> None:
    """grpc.aio's handler sees the end of the requests as often as not, and takes half of them for all."""
    has_begun = ("read",) if method.startswith("StreamStream") else ("initial",)
    script = (*ONE, has_begun, ("cancel",))
    seen = see(client, ours, method, script)
    assert seen.noted is not None
    assert seen.noted.endswith(b"'CancelledError', 'end')")


def test_a_unary_request_is_complete_when_its_client_has_half_closed(
    client: ClientProcess, stock: str, ours: str
) -> None:
    """Only then is it known to have one message. Clients send both at once; grpc.aio takes the first message."""
    script = (("write", b"?"), ("read",))
    assert see(client, stock, "UnaryStream.GenThree", script, timeout=1).replies == (b"?0",)
    assert see(client, ours, "UnaryStream.GenThree", script, timeout=1).code == "DEADLINE_EXCEEDED"
    twice = (("write", b"?", 2), ("done_writing",), *TO_THE_END)
    assert see(client, ours, "UnaryStream.GenThree", twice).code == "UNIMPLEMENTED"


def test_every_kind_of_streaming_call_has_each_way_of_writing_its_handler() -> None:
    ways = {(kind, name[:3]) for kind in KINDS for name in names(kind)}
    assert {name for kind, name in ways if kind is UnaryStream} == {"Gen", "Cor", "Def"}
    assert {name for kind, name in ways if kind is StreamUnary} == {"Ite", "Cor", "Def"}
    assert len(ways) == 3 + 3 + 4
