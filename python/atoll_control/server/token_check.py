"""`TokenCheck`: the interceptor that lets a call pass when its token allows it. Only where tokens are asked for.

It runs on the loop that the called path has, before the request is parsed and the handler chosen, and looks into memory
only (`tokens.py`). A method that is not declared, or declares nobody, is refused whoever calls it.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
import structlog

from atoll_control.server.access import (
    NODE,
    OPEN_SERVICES,
    REFLECTION_SERVICES,
    Rule,
    is_allowed,
    methods_of,
    other_node,
    role_name,
    rule_of,
    rules_of,
)
from atoll_control.server.tokens import CALLER, secret_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from atoll_control.server.audit import Audit
    from atoll_control.server.tokens import Caller, Tokens

_log = structlog.get_logger("atoll_control.token_check")

HOW: Final = (
    "send the metadata `authorization: Bearer SECRET` (atollctl: --token-file FILE, or ATOLL_TOKEN); an administrator "
    "makes tokens with `atollctl tokens create`"
)
NO_TOKEN: Final = f"this server asks for a token: {HOW}"
WRONG_TOKEN: Final = f"the token is not known, has expired or was revoked: {HOW}"
# Calls without a valid token are logged at most this often, in seconds, with how many there were.
LOG_INTERVAL: Final = 10.0


class TokenCheck(grpc.aio.ServerInterceptor):
    """Asks every call for its token. Any loop, and several at once.

    Of the numbers for the log one may be lost where two loops count at the same instant.
    """

    def __init__(self, tokens: Tokens, audit: Audit) -> None:
        """Checks calls against `tokens`, and has changes that are refused put down in `audit`."""
        self._tokens = tokens
        self._audit = audit
        self._rules = rules_of()
        # The paths of methods whose handlers look at the node that a request is about.
        self._looks_at_nodes: set[str] = set()
        self._refused = 0
        self._logged_at = float("-inf")

    def install(self, servicer: object) -> None:
        """Has the servicer's handlers look at which node a request is about, where the caller's own is asked for.

        On its loop, before the servicer is added to a server. As methods of the servicer, because a handler that an
        interceptor makes anew for each call costs it 16 us, and nodes call all the time.
        """
        for method in methods_of(servicer):
            if (rule := rule_of(method)).own_node:
                handler: Any = getattr(servicer, method.name)
                setattr(servicer, method.name, types.MethodType(_for_own_node(rule, handler.__func__), servicer))
                self._looks_at_nodes.add(rule.path)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of the call, or one that refuses it."""
        path = handler_call_details.method
        rule = self._rules.get(path)
        if rule is None and path.startswith(OPEN_SERVICES):
            return await continuation(handler_call_details)
        secret = secret_in(handler_call_details.invocation_metadata)
        caller = None if secret is None else self._tokens.find(secret)
        if caller is None:
            return self._unauthenticated(rule, is_shown=secret is not None)
        CALLER.set(caller)
        handler = await continuation(handler_call_details)
        return handler if handler is None else self._for(caller, handler, rule, path)

    def _for(
        self, caller: Caller, handler: grpc.RpcMethodHandler[Any, Any], rule: Rule | None, path: str
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of a method that is there, as this caller may use it."""
        if rule is None:
            if path.startswith(REFLECTION_SERVICES) and caller.role != NODE:
                return handler
            return _refusing(grpc.StatusCode.PERMISSION_DENIED, f"{path} declares nobody who may call it", rule)
        if not is_allowed(rule, caller.role):
            return self._denied(rule, caller)
        if caller.node_id and rule.own_node and path not in self._looks_at_nodes:
            message = f"{rule.name}: nobody looks at which node its requests are about"
            return _refusing(grpc.StatusCode.PERMISSION_DENIED, message, rule)
        return handler

    def _unauthenticated(self, rule: Rule | None, *, is_shown: bool) -> grpc.RpcMethodHandler[Any, Any]:
        self._refused += 1
        now = self._tokens.wall_clock()
        if not self._logged_at <= now < self._logged_at + LOG_INTERVAL:
            _log.warning("calls_without_a_valid_token", count=self._refused)
            self._refused, self._logged_at = 0, now
        return _refusing(grpc.StatusCode.UNAUTHENTICATED, WRONG_TOKEN if is_shown else NO_TOKEN, rule)

    def _denied(self, rule: Rule, caller: Caller) -> grpc.RpcMethodHandler[Any, Any]:
        has = role_name(caller.role)
        if rule.role == 0:
            needed = "its proto declares nobody who may call it"
        elif rule.nodes:
            needed = f"it needs the role {role_name(rule.role)} or node"
        else:
            needed = f"it needs the role {role_name(rule.role)}"
        message = f"{rule.name}: {needed}; {caller.actor} has the role {has}"
        if rule.is_audited:
            self._audit.record(caller.actor, rule.name, {}, grpc.StatusCode.PERMISSION_DENIED.name)
        return _refusing(grpc.StatusCode.PERMISSION_DENIED, message, rule)


def _for_own_node(rule: Rule, handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The handler, for requests that are about the caller's own node, if it speaks for one."""

    @functools.wraps(handler)
    async def check(module: object, request: Any, context: Any) -> Any:  # noqa: ANN401 - any message
        caller = CALLER.get()
        if caller is not None and caller.node_id and (other := other_node(rule, request, caller.node_id)) is not None:
            message = f"{rule.name}: {caller.actor} speaks for the node {caller.node_id!r} only, not for {other!r}"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, message)
        return await handler(module, request, context)

    return check


def _refusing(code: grpc.StatusCode, message: str, rule: Rule | None) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that ends the call before its request is parsed."""

    async def refuse(_request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(code, message)

    async def refuse_stream(_requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(code, message)

    if rule is not None and not rule.streams_requests:
        return grpc.unary_unary_rpc_method_handler(refuse)
    return grpc.stream_stream_rpc_method_handler(refuse_stream)
