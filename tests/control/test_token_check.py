"""TokenCheck: what passes, and what does not, beside the methods of our protos; those are in test_security.py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import structlog

from atoll.testing import FakeServicerContext
from atoll_control.server.access import ADMIN, NODE, READ
from atoll_control.server.audit import Audit
from atoll_control.server.token_check import LOG_INTERVAL, TokenCheck
from atoll_control.server.tokens import Caller, Tokens, digest_of
from atoll_control.testing import answer, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SECRETS = {
    "reader": Caller("token:reader", READ, digest_of("reader")),
    "operator": Caller("token:operator", ADMIN, digest_of("operator")),
    "node": Caller("token:node", NODE, digest_of("node"), node_id="a"),
}


class Checked:
    """A TokenCheck, and what it lets pass."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000.0
        self.tokens = Tokens(lambda: self.wall)
        self.tokens.publish({caller.digest: caller for caller in SECRETS.values()})
        self.lines: list[Any] = []
        self.check = TokenCheck(self.tokens, Audit(lambda more: self.lines.extend(line.fields for line in more)))

    def call(self, path: str, secret: str | None, *, known: bool = True) -> Any:
        """What is answered: "passed", the handler that is None, or the status with which it is refused."""
        passed: Any = grpc.unary_unary_rpc_method_handler(lambda _request, _context: None)

        class Details:
            method = path
            invocation_metadata = () if secret is None else (("authorization", f"Bearer {secret}"),)

        async def go_on(_details: Any) -> Any:
            return passed if known else None

        async def run() -> Any:
            details: Any = Details()
            handler: Any = await self.check.intercept_service(go_on, details)
            if handler is passed:
                return "passed"
            if handler is None:
                return None
            refuse: Callable[[Any, Any], Awaitable[Any]] = handler.unary_unary or handler.stream_stream
            return (await refusal(refuse, b"")).code.name

        return asyncio.run(run())


HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


@pytest.mark.parametrize(
    ("path", "secret", "outcome"),
    [
        (HEALTH, None, "passed"),
        (REFLECTION, None, "UNAUTHENTICATED"),
        (REFLECTION, "reader", "passed"),
        (REFLECTION, "node", "PERMISSION_DENIED"),
        ("/somebody.Else/Method", None, "UNAUTHENTICATED"),
        ("/somebody.Else/Method", "operator", "PERMISSION_DENIED"),
        ("/atoll.v1.KvService/Get", "reader", "passed"),
        ("/atoll.v1.KvService/Get", "", "UNAUTHENTICATED"),
        ("/atoll.v1.KvService/Get/", "operator", "PERMISSION_DENIED"),
        ("/atoll.v1.KvService/get", "operator", "PERMISSION_DENIED"),
    ],
)
def test_health_is_open_reflection_takes_a_token_and_what_nobody_declares_is_refused(
    path: str, secret: str | None, outcome: str
) -> None:
    assert Checked().call(path, secret) == outcome


def test_a_method_that_is_not_there_is_left_to_the_server_to_say() -> None:
    assert Checked().call("/somebody.Else/Method", "node", known=False) is None


def test_a_token_of_one_node_does_not_pass_where_nobody_looks_at_the_request() -> None:
    checked = Checked()
    assert checked.call("/atoll.v1.HealthService/Heartbeat", "node") == "PERMISSION_DENIED"

    class HealthServiceServicer:
        async def Heartbeat(self, _request: Any, _context: Any) -> str:
            return "heard"

        Explain = Heartbeat

    servicer = HealthServiceServicer()
    checked.check.install(servicer)
    assert checked.call("/atoll.v1.HealthService/Heartbeat", "node") == "passed"
    assert asyncio.run(answer(servicer.Heartbeat, object(), FakeServicerContext())) == "heard"


def test_a_change_that_a_role_does_not_allow_is_in_the_audit() -> None:
    checked = Checked()
    assert checked.call("/atoll.v1.KvService/Put", "reader") == "PERMISSION_DENIED"
    assert checked.call("/atoll.v1.HealthService/Heartbeat", "reader") == "PERMISSION_DENIED"
    assert checked.lines == [
        {"actor": "token:reader", "method": "KvService.Put", "target": {}, "outcome": "PERMISSION_DENIED"}
    ]


def test_calls_without_a_token_are_logged_by_their_number_and_not_one_by_one() -> None:
    checked = Checked()
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            checked.call("/atoll.v1.KvService/Get", None)
        checked.wall += LOG_INTERVAL
        checked.call("/atoll.v1.KvService/Get", "wrong")
    assert [line["count"] for line in lines] == [1, 5]
