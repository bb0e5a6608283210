"""What a client sees of Atoll is what it sees of stock grpc.aio, serving the same servicer in another process.

Where the two differ on purpose, a test of its own says how and why.
"""

# Handlers take what they don't need.

import ast
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.rpc.behaviours import SERVICE, handlers
from tests.rpc.conftest import LOOPS
from tests.rpc.support import BehavioursServer, ClientProcess, Metadata, Outcome

SERIALIZING = ("INTERNAL", "Failed to serialize response!")
# What doc/statuscodes.md of gRPC says, and the sync server does.
STATUSCODES = "a conversion that fails is INTERNAL by gRPC's table of status codes; grpc.aio says UNKNOWN"
# Method: why, and what clients see of Atoll and of grpc.aio.
DIFFERENT: dict[str, tuple[str, tuple[str, str], tuple[str, str]]] = {
    "BadRequest": (
        STATUSCODES,
        ("INTERNAL", "Exception deserializing request!"),
        ("UNKNOWN", "Unexpected <class 'ValueError'>: b'?' is not to this converter's liking"),
    ),
    "BadReply": (
        STATUSCODES,
        SERIALIZING,
        ("UNKNOWN", "Unexpected <class 'ValueError'>: b'ok:?' is not to this converter's liking"),
    ),
    "ReturnNumber": (STATUSCODES, SERIALIZING, ("UNKNOWN", "Unexpected <class 'TypeError'>: Expected bytes, got int")),
    "ReturnNone": (
        "without a serializer grpc.aio takes None for an empty message, which hides a mistake",
        SERIALIZING,
        ("OK", ""),
    ),
    "DefReturnNone": ("as with ReturnNone", SERIALIZING, ("OK", "")),
    "ReturnText": ("without a serializer grpc.aio encodes text; a reply is bytes", SERIALIZING, ("OK", "")),
    "InvalidMetadataKey": (
        "what can't be sent is refused where it is given, and the message says why",
        (
            "UNKNOWN",
            (
                "Unexpected <class 'ValueError'>: metadata key \"Capital\" is not valid: use one or more of a-z, 0-9, "
                "'-', '_' and '.', in lower case"
            ),
        ),
        ("INTERNAL", "Invalid metadata"),
    ),
    "AbortWithOk": (
        "an error that claims success is a mistake; grpc.aio never answers",
        (
            "UNKNOWN",
            "Unexpected <class 'ValueError'>: abort() ends a call with an error: return the reply for StatusCode.OK",
        ),
        ("DEADLINE_EXCEEDED", ""),
    ),
    "RaiseAnAbortError": (
        "the details name what was raised",
        ("UNKNOWN", "Unexpected <class 'grpc._cython.cygrpc.AbortError'>: of somebody else"),
        ("UNKNOWN", "Unexpected <class 'AssertionError'>: Abort error has been replaced!"),
    ),
    "RaiseCancelledError": (
        "grpc.aio never answers",
        ("CANCELLED", "The handler was cancelled"),
        ("DEADLINE_EXCEEDED", ""),
    ),
}
# On Python 3.11 a plain function's StopIteration is lost in the thread pool, and grpc.aio never answers.
DIFFERENT_BY_VERSION = {"DefStopIteration", "Never"}


@pytest.fixture(scope="module")
def stock() -> Iterator[str]:
    with BehavioursServer("behaviours", "aio", "asyncio") as target:
        yield target


@pytest.fixture(scope="module", params=list(LOOPS))
def ours(request: pytest.FixtureRequest) -> Iterator[str]:
    with BehavioursServer("behaviours", "atoll", request.param) as target:
        yield target


def see(
    client: ClientProcess,
    target: str,
    method: str,
    request: bytes = b"?",
    *,
    metadata: Metadata = (),
    timeout: float = 10,
) -> Outcome:
    path = method if method.startswith("/") else f"/{SERVICE}/{method}"
    return client.start(target, path, request, metadata=metadata, timeout=timeout).done.result(30)


@pytest.mark.parametrize("method", sorted(set(handlers()) - set(DIFFERENT) - DIFFERENT_BY_VERSION))
def test_a_client_sees_the_same_of_atoll_and_of_grpc_aio(
    client: ClientProcess, stock: str, ours: str, method: str
) -> None:
    request = {"Large": b"1000", "TimeRemaining": b"20", "DefTimeRemaining": b"20"}.get(method, b"?")
    expected = see(client, stock, method, request)
    assert see(client, ours, method, request) == expected


@pytest.mark.parametrize("method", sorted(DIFFERENT))
def test_where_the_two_differ_it_is_on_purpose(client: ClientProcess, stock: str, ours: str, method: str) -> None:
    _reason, (our_code, our_details), (stock_code, stock_details) = DIFFERENT[method]
    outcome = see(client, ours, method)
    assert (outcome.code, outcome.details) == (our_code, our_details)
    expected = see(client, stock, method, timeout=10 if stock_code != "DEADLINE_EXCEEDED" else 0.2)
    assert expected.code == stock_code
    assert stock_details in expected.details


@pytest.mark.parametrize(
    "method",
    [
        f"/{SERVICE}/Nothing",
        "/no.Service/Method",
        "/",
        "/a",
        "//",
        f"/{SERVICE}",
        f"/{SERVICE}/Ok/",
        f"/{SERVICE}/ok",
        "/%20/%41",
    ],
)
def test_what_nobody_serves_looks_the_same(client: ClientProcess, stock: str, ours: str, method: str) -> None:
    expected = see(client, stock, method)
    assert expected.code == "UNIMPLEMENTED"
    assert see(client, ours, method) == expected


@pytest.mark.parametrize(
    ("method", "size"), [("Size", 99_999), ("Size", 100_000), ("Size", 100_001), ("Size", 5_000_000)]
)
def test_requests_around_the_limit_look_the_same(
    client: ClientProcess, stock: str, ours: str, method: str, size: int
) -> None:
    expected = see(client, stock, method, bytes(size))
    assert expected.code == ("OK" if size <= 100_000 else "RESOURCE_EXHAUSTED")
    outcome = see(client, ours, method, bytes(size))
    # Details in newer words than grpcio's.
    assert replace(outcome, details="") == replace(expected, details="")
    assert see(client, ours, "Ok").code == "OK"


@pytest.mark.parametrize("size", [0, 199_999, 200_000, 200_001, 5_000_000])
def test_replies_around_the_limit_look_the_same(client: ClientProcess, stock: str, ours: str, size: int) -> None:
    expected = see(client, stock, "Large", str(size).encode())
    assert expected.code == ("OK" if size <= 200_000 else "RESOURCE_EXHAUSTED")
    outcome = see(client, ours, "Large", str(size).encode())
    assert replace(outcome, details="") == replace(expected, details="")


@pytest.mark.parametrize("method", ["InvocationMetadata", "DefInvocationMetadata"])
@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("k", "v"),),
        (("k", "1"), ("other", "2"), ("k", "3")),
        (("k", ""), ("k-bin", b"")),
        (("k-bin", bytes(range(256))), ("k-bin", b"again")),
        (("comma", "a,b"), ("comma-bin", b"a,b")),
        (("spaces", "  padded  "), ("inner", "a  b")),
        (("symbols", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),),
        (("grpc-trace-bin", b"\x00\x01"), ("grpc-tags-bin", b"\x02")),
        (("x_y.z-0", "odd key"), ("authorization", "Bearer x"), ("cookie", "a=b; c=d")),
        (("grpc-previous-rpc-attempts", "2"),),
        (("user-agent", "mine"),),
    ],
)
def test_handlers_see_the_same_metadata(
    client: ClientProcess, stock: str, ours: str, method: str, metadata: Metadata
) -> None:
    expected = see(client, stock, method, metadata=metadata)
    outcome = see(client, ours, method, metadata=metadata)

    def shown(outcome: Outcome) -> list[tuple[str, str | bytes]]:
        pairs: list[tuple[str, str | bytes]] = ast.literal_eval((outcome.reply or b"").decode())
        return sorted(pairs, key=lambda pair: pair[0])  # stable: values of one key keep their order

    assert expected.code == "OK"
    assert shown(outcome) == shown(expected)


def test_deadlines_look_the_same(client: ClientProcess, stock: str, ours: str) -> None:
    expected = see(client, stock, "Never", timeout=0.2)
    assert expected.code == "DEADLINE_EXCEEDED"
    assert see(client, ours, "Never", timeout=0.2).code == expected.code


def test_a_plain_functions_stop_iteration_is_answered(client: ClientProcess, ours: str) -> None:
    assert see(client, ours, "DefStopIteration", timeout=5).code == "UNKNOWN"
