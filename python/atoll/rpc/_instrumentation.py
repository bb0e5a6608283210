"""Who replaces `grpc.aio.server` to instrument what it makes, as OpenTelemetry and Sentry do.

`rpc.server()` goes through the replacement, so that it adds to our servers what it adds to grpcio's. That needs
grpcio's own factory, at the replacement's end, to make ours: for the length of one call its module has another class to
construct, which is grpcio's own for everybody else.

| state | written by | read by | under |
|---|---|---|---|
| `grpc.aio._server.Server` | `through` | grpcio's factory | `_replacing`, for its length |
| `_construct` | `through` | grpcio's factory, in the same context | – (a context variable) |
"""

import inspect
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

_logger = logging.getLogger("atoll.rpc")

Make = Callable[..., Any]

_replacing: Final = threading.Lock()
_construct: ContextVar[Make | None] = ContextVar("_construct", default=None)


def replacement() -> Callable[..., Any] | None:
    """What has replaced `grpc.aio.server`; None where nothing has, or grpcio is not used."""
    aio, original = sys.modules.get("grpc.aio"), sys.modules.get("grpc.aio._server")
    current = getattr(aio, "server", None)
    return None if current is getattr(original, "server", None) else current


def through(replaced: Callable[..., Any], arguments: Mapping[str, Any], make: Make) -> Any:  # noqa: ANN401 - what the replacement makes of it
    """Calls what replaced `grpc.aio.server`, and has `make(**arguments)` construct the server in place of grpcio.

    Returns:
        What the replacement returned. When it did not come to construct a server, a warning is logged, and the server
        is what `make` made.
    """
    module: Any = sys.modules["grpc.aio._server"]
    made: list[Any] = []

    def construct(*args: object, **kwargs: object) -> object:
        given = inspect.signature(original.__init__).bind(None, *args, **kwargs).arguments
        names = {"thread_pool": "migration_thread_pool", "generic_handlers": "handlers"}
        changed = {names.get(name, name): value for name, value in given.items() if name != "self"}
        made.append(make(**{name: changed.get(name, value) for name, value in arguments.items()}))
        return made[-1]

    def construct_or_leave(*args: object, **kwargs: object) -> object:
        return (_construct.get() or original)(*args, **kwargs)

    with _replacing:
        original = module.Server
        module.Server = construct_or_leave
        token = _construct.set(construct)
        try:
            result = replaced(**arguments)
        finally:
            _construct.reset(token)
            module.Server = original
    if made:
        return result
    _logger.warning(
        "%r has replaced grpc.aio.server and does not construct grpcio's server, so it adds nothing to this one: pass "
        "its interceptors to rpc.server(interceptors=...)",
        replaced,
    )
    return make(**arguments)


def warn_of_replacement(honoured: Callable[..., Any] | None) -> None:
    """Says in the log, at a server's start, when it has been instrumented in a way that has no effect on it."""
    replaced = replacement()
    if replaced is None or replaced is honoured:
        return
    _logger.warning(
        "%s has replaced grpc.aio.server, and this server was not made through it, so its calls are not instrumented: "
        "instrument first and make the server by rpc.server() then, or pass the interceptor to interceptors=",
        getattr(replaced, "__module__", replaced),
    )
