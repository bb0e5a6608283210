"""`serve`: a servicer behind the real transport, for the length of a test.

Everything runs in the test's process: the server on a Unix socket in a folder of its own, the channel on the test's
asyncio loop. A servicer that is given as a class is made on a loop of its own, as a provider makes it in production;
one that is given as an object lives on the test's loop, where the test may look into it between its awaits.

Enter and leave it on one asyncio loop; nothing here may be entered from another thread.
"""

import contextlib
import dataclasses
import functools
import operator
import os
import sys
import tempfile
import types
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Never

from atoll import rpc
from atoll.errors import RegistrationError
from atoll.placement import Dedicated, IoContextPolicy, IoContextProvider, dedicated
from atoll.testing._manual_clock import ManualClock

if TYPE_CHECKING:
    import grpc.aio

# What generated code calls `add_CounterServicer_to_server`: adds a servicer to a server.
Register = Callable[[Any, Any], object]

_SOCKET: Final = "s"
# The kernel's bound of a socket's path, `sun_path`, less the terminating zero.
_LONGEST_PATH: Final = 107 if sys.platform == "linux" else 103
# Of a Unix socket's path grpcio makes an authority that RFC 9113 does not allow, and the server refuses.
_AUTHORITY: Final = ("grpc.default_authority", "localhost")


@contextlib.asynccontextmanager
async def serve(
    *servicers: object,
    policy: type[IoContextPolicy[Any]] | None = None,
    clock: ManualClock | None = None,
    provider: IoContextProvider[Any] | None = None,
    register: Register | Sequence[Register | None] | None = None,
    options: Sequence[tuple[str, Any]] = (),
    channel_options: Sequence[tuple[str, Any]] = (),
) -> "AsyncIterator[grpc.aio.Channel]":
    """Serves `servicers` on a Unix socket for the length of an `async with` block, and gives a channel to them::

        async with atoll.testing.serve(Counter) as channel:
            counter = counter_pb2_grpc.CounterStub(channel)
            reply = await counter.Add(counter_pb2.Amount(amount=2))

    At the end, also when the block raised, the channel is closed, calls in flight are cancelled, and the loops that it
    started are stopped. Needs the extra `grpc`.

    Args:
        servicers: Classes, or `functools.partial` of a class and its arguments, that are constructed on the loop where
            the policy places them, or else on a loop of their own with the class's name; a coroutine function
            `start()` is awaited there, and `stop()` at the end. Or objects, which live on the running loop unless the
            policy places their class.
        policy: Where modules live, as in production.
        clock: The time of the loops that it starts: what their modules wait for is due when the test advances it. The
            deadlines of calls are the transport's, in real time.
        provider: Instead of a policy: a provider that has been entered, for tests that make further modules with it or
            call some through `provider.ref()`. It is not left at the end.
        register: What generated code offers as `add_CounterServicer_to_server`, for a servicer that does not derive
            from a generated class; for several servicers a sequence in their order, with None where it can be found.
        options: grpc's channel options for the server.
        channel_options: grpc's channel options for the channel.

    Raises:
        RegistrationError: When the registration function of a servicer can't be found.
        PlacementError: When the policy does not cover a servicer's class.
        NotOnLoopError: When no asyncio loop runs on this thread.
        ImportError: Without grpcio.
        Exception: What a servicer's constructor or `start()` raised.
    """  # noqa: D415 - the colon leads to the example
    if provider is not None and not (policy is None and clock is None):
        raise TypeError("a provider has a policy and loops already: leave out policy= and clock=, or provider=")
    planned = _plan(servicers, register)
    async with contextlib.AsyncExitStack() as stack:
        address = f"unix:{stack.enter_context(_folder())}/{_SOCKET}"
        if provider is None:
            if policy is None:
                policy = _own_loops([each.made_class for each in planned if each.made_class is not None], clock)
            elif clock is not None:
                policy = _with_clock(policy, clock)
            provider = await stack.enter_async_context(IoContextProvider(policy))
        server = rpc.server(placement=provider, options=options)
        import grpc.aio  # noqa: PLC0415 - an extra, which rpc.server() has asked for

        for each in planned:
            servicer = await each.servicer(provider)
            for add in each.register:
                add(servicer, server)
        stack.push_async_callback(server.stop, None)
        server.add_insecure_port(address)
        await server.start()
        channel = grpc.aio.insecure_channel(address, options=[_AUTHORITY, *channel_options])
        yield await stack.enter_async_context(channel)


@dataclasses.dataclass(frozen=True)
class _Planned:
    """A servicer, and how it is added to a server."""

    given: Any
    made_class: Any
    register: tuple[Register, ...]

    async def servicer(self, provider: IoContextProvider[Any]) -> object:
        """The object, which a class given is made into."""
        if self.made_class is None:
            return self.given
        if isinstance(self.given, functools.partial):
            return await provider.create(self.made_class, *self.given.args, **self.given.keywords)
        return await provider.create(self.made_class)


def _plan(servicers: tuple[object, ...], register: Register | Sequence[Register | None] | None) -> list[_Planned]:
    """What is to be served; raises before anything has started."""
    if not servicers:
        raise RegistrationError("serve() has nothing to serve: name a servicer, serve(Counter)")
    given: Sequence[Register | None]
    if register is None:
        given = [None] * len(servicers)
    elif callable(register):
        given = [register]
    else:
        given = register
    if len(given) != len(servicers):
        raise RegistrationError(
            f"register= has {len(given)} functions for {len(servicers)} servicers: give a sequence with one for each, "
            "in their order, with None for a servicer that derives from a generated class"
        )
    planned = []
    for servicer, function in zip(servicers, given, strict=True):
        made = servicer.func if isinstance(servicer, functools.partial) else servicer
        made_class = made if isinstance(made, type) else None
        if made_class is None and made is not servicer:
            raise RegistrationError(
                f"{servicer!r} makes a servicer with a function, whose class can't be told: write "
                "functools.partial(Counter, ...) with the class itself"
            )
        found = _generated(made_class or type(servicer)) if function is None else (function,)
        planned.append(_Planned(servicer, made_class, found))
    return planned


def _generated(servicer: type) -> tuple[Register, ...]:
    """The functions that generated code has for the bases of `servicer`: one for each service that it implements."""
    found: list[Register] = []
    looked_at = []
    for base in servicer.__mro__[:-1]:
        name = f"add_{base.__name__}_to_server"
        looked_at.append(f"{base.__module__}.{name}")
        function = getattr(sys.modules.get(base.__module__), name, None)
        if callable(function) and function not in found:
            found.append(function)
    if not found:
        raise RegistrationError(
            f"how {servicer.__qualname__} is added to a server can't be found: there is no "
            f"{' and no '.join(looked_at)}. Derive it from the generated class, such as "
            "counter_pb2_grpc.CounterServicer, or name the function, "
            "serve(..., register=counter_pb2_grpc.add_CounterServicer_to_server)"
        )
    return tuple(found)


def _own_loops(classes: Sequence[type], clock: ManualClock | None) -> type[IoContextPolicy[Any]]:
    """A policy that gives each class a loop with its name."""
    loops: dict[str, Dedicated] = {}
    names: Counter[str] = Counter()
    for each in dict.fromkeys(classes):
        names[each.__name__] += 1
        number = names[each.__name__]
        name = each.__name__ if number == 1 else f"{each.__name__}_{number}"
        loops[f"loop_{len(loops)}"] = dedicated(each, name=name, clock=clock)
    return _policy("Served", classes, loops)


def _with_clock(policy: type[IoContextPolicy[Any]], clock: ManualClock) -> type[IoContextPolicy[Any]]:
    """The same policy with loops whose time is the clock's."""
    loops = {
        attribute: dataclasses.replace(value, name=value.name or attribute, options={**value.options, "clock": clock})
        for attribute, value in vars(policy).items()
        if isinstance(value, Dedicated)
    }
    return _policy(policy.__name__, policy._modules, loops)  # noqa: SLF001 - what the policy's type parameter says


def _policy(name: str, modules: Sequence[type], loops: Mapping[str, Dedicated]) -> type[IoContextPolicy[Any]]:
    """The class that a user would write."""
    generic: Any = IoContextPolicy
    covered = functools.reduce(operator.or_, modules) if modules else Never
    return types.new_class(name, (generic[covered],), exec_body=lambda body: body.update(loops))


def _folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder whose name is short enough for a socket in it."""
    folder = tempfile.TemporaryDirectory(prefix="atoll-")
    if len(os.fsencode(folder.name)) + 1 + len(_SOCKET) > _LONGEST_PATH:
        folder.cleanup()
        folder = tempfile.TemporaryDirectory(prefix="atoll-", dir="/tmp")
    return folder
