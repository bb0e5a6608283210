"""TokenManager and Tokens: who is known, for how long, and what is kept of a secret."""

from __future__ import annotations

import asyncio
import itertools
import stat
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from tests.control.cluster import FlakyStore

from atoll.errors import NotLeaderError, OutcomeUnknownError, StoreFullError
from atoll.store import Store
from atoll_control.api.v1 import rules_pb2, token_pb2
from atoll_control.server.access import ADMIN, NODE, READ, WRITE
from atoll_control.server.security import SecuritySettingsError
from atoll_control.server.tables import TOKENS
from atoll_control.server.token_manager import TokenManager
from atoll_control.server.tokens import SECRET_BYTES, Caller, Tokens, digest_of, new_secret, secret_in
from atoll_control.testing import Refused, answer, refusal

if TYPE_CHECKING:
    from pathlib import Path

WALL = 1_700_000_000.0


class Keeper:
    """A TokenManager that is called without a network."""

    def __init__(self, store: Any = None, *, always: Caller | None = None, **settings: Any) -> None:
        self.store = store or Store.in_memory([TOKENS])
        self.wall = WALL
        self.tokens = Tokens(lambda: self.wall, always)
        numbers = itertools.count(1)
        self.manager = TokenManager(
            self.store, self.tokens, random_bytes=lambda size: next(numbers).to_bytes(size, "big"), **settings
        )
        asyncio.run(self.manager.start())

    def create(self, name: str, role: rules_pb2.Role.ValueType = WRITE, **fields: Any) -> str:
        request = token_pb2.CreateTokenRequest(name=name, role=role, **fields)
        return asyncio.run(answer(self.manager.CreateToken, request)).secret

    def list(self, **fields: Any) -> list[token_pb2.Token]:
        return list(asyncio.run(answer(self.manager.ListTokens, token_pb2.ListTokensRequest(**fields))).tokens)

    def revoke(self, name: str) -> token_pb2.Token:
        return asyncio.run(answer(self.manager.RevokeToken, token_pb2.RevokeTokenRequest(name=name))).token

    def refused(self, method: str, **fields: Any) -> tuple[str, str]:
        request = getattr(token_pb2, f"{method}Request")(**fields)
        refused = asyncio.run(refusal(getattr(self.manager, method), request))
        return refused.code.name, refused.details


def test_a_token_is_known_by_its_secret_from_when_it_is_made_until_it_is_revoked() -> None:
    keeper = Keeper()
    assert keeper.tokens.find("anything") is None
    secret = keeper.create("ci")
    caller = keeper.tokens.find(secret)
    assert caller is not None
    assert (caller.actor, caller.role, caller.node_id) == ("token:ci", WRITE, "")
    assert keeper.revoke("ci").name == "ci"
    assert keeper.tokens.find(secret) is None
    assert not keeper.tokens.is_valid(caller)
    assert keeper.refused("RevokeToken", name="ci") == ("NOT_FOUND", "no token has the name 'ci'")


def test_the_store_has_the_hash_of_a_secret_and_nothing_else_of_it() -> None:
    keeper = Keeper()
    secret = keeper.create("ci")
    (row,) = keeper.store.scan(TOKENS).rows
    assert secret.encode() not in row.value
    assert secret.removeprefix("atoll_").encode() not in row.value
    assert digest_of(secret) in row.value


def test_a_token_expires_to_the_second_and_stays_listed() -> None:
    keeper = Keeper()
    secret = keeper.create("ci", ttl=Duration(seconds=60))
    caller = keeper.tokens.find(secret)
    assert caller is not None
    keeper.wall += 59.5
    assert keeper.tokens.find(secret) is caller
    keeper.wall += 0.5
    assert keeper.tokens.find(secret) is None
    assert not keeper.tokens.is_valid(caller)
    (listed,) = keeper.list()
    assert listed.expires.ToSeconds() == WALL + 60
    assert listed.last_used.ToMilliseconds() == (WALL + 59.5) * 1000


def test_tokens_are_listed_by_name_in_pages_with_when_they_were_last_used() -> None:
    keeper = Keeper()
    secrets = {name: keeper.create(name) for name in ("c", "a", "b")}
    assert [token.name for token in keeper.list()] == ["a", "b", "c"]
    assert [token.name for token in keeper.list(limit=2)] == ["a", "b"]
    assert [token.name for token in keeper.list(start_after="b")] == ["c"]
    assert not keeper.list()[0].HasField("last_used")
    keeper.wall += 5
    keeper.tokens.find(secrets["a"])
    assert keeper.list()[0].last_used.ToSeconds() == WALL + 5
    assert keeper.list()[0].created.ToSeconds() == WALL


def test_a_server_that_is_started_again_knows_the_tokens() -> None:
    keeper = Keeper()
    kept, revoked = keeper.create("kept", NODE, node_id="n-1"), keeper.create("revoked")
    keeper.revoke("revoked")
    again = Keeper(keeper.store)
    caller = again.tokens.find(kept)
    assert caller is not None
    assert (caller.actor, caller.role, caller.node_id) == ("token:kept", NODE, "n-1")
    assert again.tokens.find(revoked) is None


def test_a_name_that_is_taken_is_refused_and_free_again_after_the_end() -> None:
    keeper = Keeper()
    first = keeper.create("ci", READ)
    code, details = keeper.refused("CreateToken", name="ci", role=ADMIN)
    assert (code, "revoke it first" in details) == ("ALREADY_EXISTS", True)
    known = keeper.tokens.find(first)
    assert known is not None
    assert known.role == READ
    before = keeper.revoke("ci")
    second = keeper.create("ci", ADMIN)
    assert keeper.tokens.find(first) is None
    assert keeper.tokens.find(second) is not None
    assert keeper.list()[0].token_id != before.token_id


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"role": NODE}, "node_id: is required with the role node, unless any_node is set"),
        ({"role": NODE, "node_id": "a", "any_node": True}, "any_node: must not be set together with node_id"),
        ({"role": WRITE, "node_id": "a"}, "node_id: only tokens of the role node are for a node"),
        ({"role": ADMIN, "any_node": True}, "any_node: only tokens of the role node are for a node"),
    ],
)
def test_a_token_is_for_a_node_exactly_with_that_role(fields: dict[str, Any], message: str) -> None:
    keeper = Keeper()
    assert keeper.refused("CreateToken", name="x", **fields) == ("INVALID_ARGUMENT", message)
    assert keeper.list() == []


def test_there_are_as_many_tokens_as_there_may_be() -> None:
    keeper = Keeper(max_tokens=1)
    keeper.create("a")
    code, details = keeper.refused("CreateToken", name="b", role=READ)
    assert (code, "at most 1 tokens" in details) == ("RESOURCE_EXHAUSTED", True)


def test_tokens_that_are_made_at_once_are_no_more_than_there_may_be_together() -> None:
    keeper = Keeper(max_tokens=3)
    keeper.create("first")

    async def create(name: str) -> str:
        request = token_pb2.CreateTokenRequest(name=name, role=READ)
        try:
            return (await answer(keeper.manager.CreateToken, request)).token.name
        except Refused as refused:
            return refused.code.name

    async def create_all() -> list[str]:
        return await asyncio.gather(*(create(name) for name in ("a", "b", "c", "d")))

    assert asyncio.run(create_all()) == ["a", "b", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"]
    # What the store refuses takes no room, nor does a name that is taken.
    keeper.revoke("a")
    assert keeper.refused("CreateToken", name="b", role=READ)[0] == "ALREADY_EXISTS"
    keeper.create("e")
    assert sorted(token.name for token in keeper.list()) == ["b", "e", "first"]


def test_a_change_that_the_store_refuses_changes_nothing() -> None:
    store = FlakyStore()
    store.real = Store.in_memory([TOKENS])
    keeper = Keeper(store)
    secret = keeper.create("ci")
    store.failure = StoreFullError("no space left")
    assert keeper.refused("CreateToken", name="b", role=READ)[0] == "RESOURCE_EXHAUSTED"
    assert keeper.refused("RevokeToken", name="ci")[0] == "RESOURCE_EXHAUSTED"
    assert keeper.tokens.find(secret) is not None
    assert [token.name for token in keeper.list()] == ["ci"]


def test_a_token_whose_end_may_have_been_stored_is_looked_up() -> None:
    store = FlakyStore()
    store.real = Store.in_memory([TOKENS])
    keeper = Keeper(store)
    secret = keeper.create("ci")
    store.failure, store.commits_nevertheless = OutcomeUnknownError("who knows"), True
    assert keeper.refused("RevokeToken", name="ci")[0] == "ABORTED"
    assert keeper.tokens.find(secret) is None


def test_a_change_whose_caller_gives_up_holds_as_the_store_has_it() -> None:
    store = FlakyStore()
    store.real = Store.in_memory([TOKENS])
    keeper = Keeper(store)
    secret = keeper.create("old")

    async def names() -> list[str]:
        return [token.name for token in (await answer(keeper.manager.ListTokens, token_pb2.ListTokensRequest())).tokens]

    async def give_up(method: Any, request: Any, *, then: list[str]) -> None:
        store.gate = asyncio.Event()
        attempts = store.attempts
        asking = asyncio.create_task(answer(method, request))
        while store.attempts == attempts:  # noqa: ASYNC110 - the fake has no event for it
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        store.gate.set()
        async with asyncio.timeout(30):
            while await names() != then:  # noqa: ASYNC110 - nobody waits for it
                await asyncio.sleep(0.001)

    asyncio.run(give_up(keeper.manager.RevokeToken, token_pb2.RevokeTokenRequest(name="old"), then=[]))
    assert keeper.tokens.find(secret) is None
    create = token_pb2.CreateTokenRequest(name="new", role=READ)
    asyncio.run(give_up(keeper.manager.CreateToken, create, then=["new"]))
    store.gate = None
    assert keeper.revoke("new").name == "new"


def test_a_store_that_may_not_be_read_any_more_does_not_hide_that_the_outcome_is_not_known() -> None:
    class LostStore(FlakyStore):
        def get(self, *_: Any) -> Any:
            raise NotLeaderError("the lease has run out")

    store = LostStore()
    store.real = Store.in_memory([TOKENS])
    keeper = Keeper(store)
    store.failure = OutcomeUnknownError("who knows")
    assert keeper.refused("CreateToken", name="ci", role=READ) == ("ABORTED", "who knows")


def test_the_first_administrator_finds_a_token_in_a_file_that_only_he_can_read(tmp_path: Path) -> None:
    path = tmp_path / "admin-token"
    keeper = Keeper(first_token_file=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    caller = keeper.tokens.find(path.read_text().strip())
    assert caller is not None
    assert (caller.actor, caller.role) == ("token:admin", ADMIN)
    secret = path.read_text()
    Keeper(keeper.store, first_token_file=path)
    assert path.read_text() == secret, "there is one already"


def test_a_first_token_that_can_not_be_written_is_not_stored_either(tmp_path: Path) -> None:
    store = Store.in_memory([TOKENS])
    with pytest.raises(SecuritySettingsError, match="the first administrator's token can't be written"):
        Keeper(store, first_token_file=tmp_path / "missing" / "admin-token")
    assert store.count(TOKENS) == 0


def test_a_token_for_the_first_administrator_is_made_when_all_others_are_of_other_roles(tmp_path: Path) -> None:
    keeper = Keeper()
    keeper.create("admin", READ)
    keeper.create("old", ADMIN, ttl=Duration(seconds=1))
    again = Keeper(keeper.store, first_token_file=tmp_path / "admin-token")
    assert [token.name for token in again.list()] == ["admin", "old"], "one that is valid"
    again = Keeper(keeper.store)
    again.revoke("old")
    again = Keeper(keeper.store, first_token_file=tmp_path / "admin-token")
    assert [token.name for token in again.list()] == ["admin", "admin-2"]


def test_an_administrators_token_that_is_always_valid_is_in_no_list_and_can_not_be_revoked() -> None:
    always = Caller("admin-token-file", ADMIN, digest_of("secret"))
    keeper = Keeper(always=always)
    keeper.create("ci")
    assert keeper.tokens.find("secret") is always
    assert [token.name for token in keeper.list()] == ["ci"]
    assert keeper.refused("RevokeToken", name="admin-token-file")[0] == "NOT_FOUND"


def test_a_secret_is_256_random_bits_that_a_scanner_can_tell() -> None:
    asked: list[int] = []

    def random_bytes(size: int) -> bytes:
        asked.append(size)
        return bytes(range(size))

    secret = new_secret(random_bytes)
    assert asked == [SECRET_BYTES] == [32]
    assert secret.partition("_") == ("atoll", "_", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")


@pytest.mark.parametrize(
    ("metadata", "secret"),
    [
        ([("authorization", "Bearer s")], "s"),
        ([("other", "x"), ("authorization", "bearer  s ")], "s"),
        ([("authorization", "Basic s")], None),
        ([("authorization", "s")], None),
        ([("authorization-bin", b"Bearer s")], None),
        ([], None),
    ],
)
def test_a_secret_is_what_follows_bearer(metadata: list[tuple[str, Any]], secret: str | None) -> None:
    assert secret_in(metadata) == secret
