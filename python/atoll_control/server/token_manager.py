"""`TokenManager`: makes, lists and revokes tokens, and tells `Tokens` which are valid.

Owns the table `tokens`: a row per token, by its name, with the hash of its secret before the token's message. Only its
own loop enters it. A change is durable before it holds: a token that was answered survives the server, and so does its
end. When it was last used is in memory only, and each server knows of itself alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Final

import grpc
import grpc.aio
import structlog

from atoll.errors import StoreError
from atoll_control.api.times import seconds, timestamp
from atoll_control.api.v1 import token_pb2, token_pb2_grpc
from atoll_control.server.access import ADMIN, NODE
from atoll_control.server.calls import RefusedError, answer, check
from atoll_control.server.pages import DEFAULT_PAGE
from atoll_control.server.security import SecuritySettingsError
from atoll_control.server.tables import TOKENS
from atoll_control.server.tokens import Caller, digest_of, new_secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from atoll.store import Store, StoreBatch, StoreCommitted
    from atoll_control.server.tokens import Tokens

_log = structlog.get_logger("atoll_control.token_manager")

MAX_TOKENS: Final = 100_000
# The name of the token that a server makes for its first administrator.
FIRST_NAME: Final = "admin"
_DIGEST_BYTES: Final = 32
_ID_BYTES: Final = 8


class TokenManager(token_pb2_grpc.TokenServiceServicer):
    """The module behind `TokenService`. See this file's first lines for its rules."""

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        *,
        first_token_file: Path | None = None,
        max_tokens: int = MAX_TOKENS,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """Knows nothing yet: `start` reads what there is.

        Args:
            store: with the table `tokens`.
            tokens: is told which are valid.
            first_token_file: where the first administrator finds his token, which is made when there is none of his
                role; none is made when None.
            max_tokens: how many are kept, expired ones included.
            random_bytes: gives as many bytes as it is asked for, which nobody can guess: `os.urandom`.
        """
        self._store = store
        self._tokens = tokens
        self._first_token_file = first_token_file
        self._max_tokens = max_tokens
        self._random_bytes = random_bytes
        # By name, as in the table.
        self._known: dict[str, tuple[token_pb2.Token, Caller]] = {}
        self._changes: set[asyncio.Task[StoreCommitted]] = set()
        # Tokens that are being made.
        self._joining = 0

    async def start(self) -> None:
        """Reads the tokens, and makes the first when there has to be one.

        Raises:
            SecuritySettingsError: the file of the first token can't be written.
            StoreError: the first token could not be stored.
        """
        start = b""
        while True:
            page = self._store.scan(TOKENS, start)
            for row in page.rows:
                self._add(row.value)
            if not page.more:
                break
            start = page.rows[-1].key + b"\0"
        if self._first_token_file is not None and not self._has_admin():
            await self._make_first(self._first_token_file)
        self._publish()

    def _add(self, value: bytes) -> None:
        """Takes what a row says."""
        digest, token = value[:_DIGEST_BYTES], token_pb2.Token.FromString(value[_DIGEST_BYTES:])
        known = self._known.get(token.name)
        if known is None or known[1].digest != digest:
            expires = token.expires.ToMicroseconds() / 1e6 if token.HasField("expires") else float("inf")
            caller = Caller(f"token:{token.name}", token.role, digest, node_id=token.node_id, expires=expires)
            self._known[token.name] = token, caller

    async def _commit(self, name: str, batch: StoreBatch, *, joins: bool = False) -> StoreCommitted:
        """Commits a change of one token, and takes what is there then, also when it is not known what came of it.

        Goes on when the caller gives up: a token that was revoked in the store must not stay valid here.
        """
        self._joining += joins
        change = asyncio.create_task(self._change(name, batch, joins=joins))
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)
        return await asyncio.shield(change)

    async def _change(self, name: str, batch: StoreBatch, *, joins: bool) -> StoreCommitted:
        try:
            return await self._store.commit(batch)
        finally:
            self._joining -= joins
            # A store that may not be read any more must not hide what came of the change; its server ends its term.
            with contextlib.suppress(StoreError):
                self._take(name)

    def _take(self, name: str) -> None:
        """Takes what the store has of a token."""
        if (row := self._store.get(TOKENS, name.encode())) is None:
            self._known.pop(name, None)
        else:
            self._add(row.value)
        self._publish()

    def _publish(self) -> None:
        self._tokens.publish({caller.digest: caller for _, caller in self._known.values()})

    def _has_admin(self) -> bool:
        now = self._tokens.wall_clock()
        return any(caller.role == ADMIN and now < caller.expires for _, caller in self._known.values())

    async def _make_first(self, path: Path) -> None:
        name = FIRST_NAME
        number = 1
        while name in self._known:
            number += 1
            name = f"{FIRST_NAME}-{number}"
        secret = new_secret(self._random_bytes)
        # The file first: a token that is stored, and whose secret nobody has, would lock everybody out.
        try:
            write_privately(path, secret + "\n")
        except OSError as problem:
            message = (
                f"the first administrator's token can't be written to {path}: {problem}; mend that, or name a file "
                "that has one with --admin-token-file"
            )
            raise SecuritySettingsError(message) from problem
        await self._store_token(token_pb2.Token(name=name, role=ADMIN), secret)
        _log.warning("first_admin_token", name=name, file=str(path), remedy="keep it where only administrators read it")

    async def _store_token(self, token: token_pb2.Token, secret: str) -> None:
        token.token_id = self._random_bytes(_ID_BYTES).hex()
        token.created.CopyFrom(timestamp(self._tokens.wall_clock()))
        digest, key = digest_of(secret), token.name.encode()
        batch = self._store.batch().check_absent(TOKENS, key).put(TOKENS, key, digest + token.SerializeToString())
        if not (await self._commit(token.name, batch, joins=True)).applied:
            exists = f"a token has the name {token.name!r}: revoke it first, or take another name"
            raise RefusedError(grpc.StatusCode.ALREADY_EXISTS, exists)

    # -- TokenService --------------------------------------------------------------------------------------------------

    async def CreateToken(
        self,
        request: token_pb2.CreateTokenRequest,
        context: grpc.aio.ServicerContext[token_pb2.CreateTokenRequest, token_pb2.CreateTokenResponse],
    ) -> token_pb2.CreateTokenResponse:
        """Makes a token."""
        await check(request, context)
        return await answer(self._create(request), context)

    async def _create(self, request: token_pb2.CreateTokenRequest) -> token_pb2.CreateTokenResponse:
        _check_node(request)
        if len(self._known) + self._joining >= self._max_tokens:
            full = f"the server keeps at most {self._max_tokens:,} tokens, expired ones included: revoke some"
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, full)
        token = token_pb2.Token(name=request.name, role=request.role, node_id=request.node_id)
        if request.HasField("ttl"):
            token.expires.CopyFrom(timestamp(self._tokens.wall_clock() + seconds(request.ttl)))
        secret = new_secret(self._random_bytes)
        await self._store_token(token, secret)
        return token_pb2.CreateTokenResponse(token=token, secret=secret)

    async def ListTokens(
        self,
        request: token_pb2.ListTokensRequest,
        context: grpc.aio.ServicerContext[token_pb2.ListTokensRequest, token_pb2.ListTokensResponse],
    ) -> token_pb2.ListTokensResponse:
        """Lists tokens, a page at a time."""
        await check(request, context)
        names = sorted(name for name in self._known if name > request.start_after)
        limit = request.limit or DEFAULT_PAGE
        page = [self._described(name) for name in names[:limit]]
        return token_pb2.ListTokensResponse(tokens=page, more=len(names) > limit)

    def _described(self, name: str) -> token_pb2.Token:
        stored, caller = self._known[name]
        token = token_pb2.Token()
        token.CopyFrom(stored)
        if caller.last_used:
            token.last_used.CopyFrom(timestamp(caller.last_used))
        return token

    async def RevokeToken(
        self,
        request: token_pb2.RevokeTokenRequest,
        context: grpc.aio.ServicerContext[token_pb2.RevokeTokenRequest, token_pb2.RevokeTokenResponse],
    ) -> token_pb2.RevokeTokenResponse:
        """Ends a token."""
        await check(request, context)
        return await answer(self._revoke(request.name), context)

    async def _revoke(self, name: str) -> token_pb2.RevokeTokenResponse:
        token = self._described(name) if name in self._known else None
        committed = await self._commit(name, self._store.batch().delete(TOKENS, name.encode()))
        if not committed.deleted[0]:
            raise RefusedError(grpc.StatusCode.NOT_FOUND, f"no token has the name {name!r}")
        return token_pb2.RevokeTokenResponse(token=token)


def _check_node(request: token_pb2.CreateTokenRequest) -> None:
    """The rules that one field can't tell."""
    wrong = ""
    if request.role != NODE and (request.node_id or request.any_node):
        field = "node_id" if request.node_id else "any_node"
        wrong = f"{field}: only tokens of the role node are for a node"
    elif request.role == NODE and not (request.node_id or request.any_node):
        wrong = "node_id: is required with the role node, unless any_node is set"
    elif request.node_id and request.any_node:
        wrong = "any_node: must not be set together with node_id"
    if wrong:
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, wrong)


def write_privately(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, in place of one that is there; whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
