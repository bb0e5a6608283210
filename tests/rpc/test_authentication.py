"""Tokens and cluster ids, checked before a call reaches Python."""

from typing import Any

import pytest
from tests.rpc.support import ClientProcess, Metadata, add_methods, path, running

from atoll import rpc

HEALTH = "grpc.health.v1.Health"


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


class Served:
    """A server with the handlers `Answer`, of a service and of health, that counts the calls it has seen."""

    def __init__(self, auth: rpc.Authentication) -> None:
        self.calls = 0
        self.server: Any = rpc.server(auth=auth)
        add_methods(self.server, Answer=self._answer)
        add_methods(self.server, service=HEALTH, Check=self._answer)

    async def _answer(self, _request: bytes, _context: Any) -> bytes:
        self.calls += 1
        return b"answer"


async def test_a_call_needs_a_valid_token_and_reaches_no_handler_without(client: ClientProcess) -> None:
    auth = rpc.Authentication(["new", "old"])
    served = Served(auth)
    async with running(served.server) as target:
        for token in ("new", "old"):
            assert (await client.call(target, path("Answer"), metadata=bearer(token))).code == "OK"
        wrong = await client.call(target, path("Answer"), metadata=bearer("guess"))
        missing = await client.call(target, path("Answer"))
    assert (wrong.code, missing.code) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    assert "not valid here" in wrong.details
    assert "send the metadata 'authorization: Bearer TOKEN'" in missing.details
    assert served.calls == 2
    assert auth.refused() == rpc.Unauthenticated(1, 1, 0, 0)


async def test_a_stranger_does_not_learn_which_methods_exist(client: ClientProcess) -> None:
    async with running(Served(rpc.Authentication(["token"])).server) as target:
        known = await client.call(target, path("Answer"))
        unknown = await client.call(target, path("Nothing"))
        friend = await client.call(target, path("Nothing"), metadata=bearer("token"))
    assert known == unknown
    assert friend.code == "UNIMPLEMENTED"


async def test_tokens_are_rotated_while_calls_come(client: ClientProcess) -> None:
    auth = rpc.Authentication(["old"])
    async with running(Served(auth).server) as target:

        async def codes() -> list[str]:
            return [
                (await client.call(target, path("Answer"), metadata=bearer(token))).code for token in ("old", "new")
            ]

        assert await codes() == ["OK", "UNAUTHENTICATED"]
        auth.replace_tokens(["new", "old"])
        assert await codes() == ["OK", "OK"]
        auth.replace_tokens(["new"])
        assert await codes() == ["UNAUTHENTICATED", "OK"]


@pytest.mark.parametrize("required", [False, True])
async def test_calls_for_another_cluster_are_refused(required: bool, client: ClientProcess) -> None:  # noqa: FBT001
    auth = rpc.Authentication(cluster_id="c-17", require_cluster_id=required)
    served = Served(auth)
    async with running(served.server) as target:
        right = await client.call(target, path("Answer"), metadata=(("atoll-cluster-id", "c-17"),))
        wrong = await client.call(target, path("Answer"), metadata=(("atoll-cluster-id", "c-18"),))
        missing = await client.call(target, path("Answer"))
    assert (right.code, wrong.code) == ("OK", "UNAUTHENTICATED")
    assert "meant for another cluster" in wrong.details
    assert "c-17" not in wrong.details
    assert missing.code == ("UNAUTHENTICATED" if required else "OK")
    assert auth.refused() == rpc.Unauthenticated(0, 0, int(required), 1)


async def test_the_token_is_checked_before_the_cluster_and_both_must_be_right(client: ClientProcess) -> None:
    auth = rpc.Authentication(["token"], cluster_id="c", cluster_id_key="x-cluster")
    async with running(Served(auth).server) as target:
        expected = {("token", "c"): "", ("token", "d"): "meant for another cluster", ("x", "d"): "token of the call"}
        for (token, cluster), details in expected.items():
            outcome = await client.call(target, path("Answer"), metadata=(*bearer(token), ("x-cluster", cluster)))
            assert outcome.code == ("UNAUTHENTICATED" if details else "OK")
            assert details in outcome.details
    assert auth.refused() == rpc.Unauthenticated(0, 1, 0, 1)


@pytest.mark.parametrize("exempt", [False, True])
async def test_health_is_exempt_where_that_is_asked_for(exempt: bool, client: ClientProcess) -> None:  # noqa: FBT001
    auth = rpc.Authentication(["token"], cluster_id="c", require_cluster_id=True, exempt_health=exempt)
    async with running(Served(auth).server) as target:
        assert (await client.call(target, path("Check", HEALTH))).code == ("OK" if exempt else "UNAUTHENTICATED")
        assert (await client.call(target, path("Answer"))).code == "UNAUTHENTICATED"


@pytest.mark.parametrize("token", ["", "two words", "tränen", "a\nb"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="token 1 can't be sent as metadata") as raised:
        rpc.Authentication(["fine", token])
    assert not token or token not in str(raised.value)


def test_what_asks_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is asked of a call"):
        rpc.Authentication()
    with pytest.raises(ValueError, match="nobody could call"):
        rpc.Authentication([])
    with pytest.raises(ValueError, match="nobody could call"):
        rpc.Authentication(["token"]).replace_tokens([])
    with pytest.raises(ValueError, match="no tokens are asked for here"):
        rpc.Authentication(cluster_id="c").replace_tokens(["token"])
    with pytest.raises(TypeError, match=r"write \[token\]"):
        rpc.Authentication("token")
    with pytest.raises(ValueError, match="is no metadata key"):
        rpc.Authentication(cluster_id="c", cluster_id_key="no key")
    with pytest.raises(ValueError, match="the cluster id can't be sent"):
        rpc.Authentication(cluster_id="c 17")


def test_what_is_shown_of_it_has_no_tokens() -> None:
    assert "secret" not in repr(rpc.Authentication(["secret"]))


@pytest.mark.parametrize("exempt", [False, True])
async def test_the_transports_own_health_service_is_no_exception(exempt: bool, client: ClientProcess) -> None:  # noqa: FBT001
    server = rpc.server(health=True, auth=rpc.Authentication(["token"], exempt_health=exempt))
    async with running(server) as target:
        assert (await client.call(target, path("Check", HEALTH))).code == ("OK" if exempt else "UNAUTHENTICATED")
        assert (await client.call(target, path("Check", HEALTH), metadata=bearer("token"))).code == "OK"
