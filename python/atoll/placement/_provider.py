"""`IoContextProvider`: starts a policy's loops, makes the modules on them, and stops both.

| state | written by | read by | under |
|---|---|---|---|
| `_loops`, `_default`, `_state` | the task that enters and leaves | any | – (before modules exist, and after) |
| `_modules`, `_created` | whoever creates, and the modules' loops | any | single operations on a dict and a list |
"""

import asyncio
import contextlib
import functools
import inspect
import logging
import math
from types import TracebackType
from typing import Any, Final, Generic, Literal, ParamSpec, Protocol, Self, TypeVar, cast, overload

from atoll.errors import AtollError, PlacementError
from atoll.loop import (
    STOP_TIMEOUT,
    IoContext,
    IoContextThread,
    LoopFuture,
    ModuleRef,
    gil_is_enabled,
    still_running,
    switch_interval,
)
from atoll.observe import LagProbe, LoopMonitor, ObserveEndpoint, endpoint_from_environment
from atoll.placement._module_check import checked_class
from atoll.placement._options import PlacementOptions
from atoll.placement._policy import IoContextPolicy, PlacedLoop, title_of

M_co = TypeVar("M_co", covariant=True)
M_contra = TypeVar("M_contra", contravariant=True)
P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

SWITCH_INTERVAL: Final = 0.0005
START_TIMEOUT: Final = 10.0
# What comes after a module that used up the time gets this long: most need a millisecond.
_FLOOR: Final = 1.0
_MIN_LOOPS_TO_SWITCH_FOR: Final = 2

_logger = logging.getLogger("atoll.placement")


class ModuleClass(Protocol[P, T_co, M_co]):
    """A class, for type checkers: P is what it is constructed with, T the module, and T must be among M.

    Python has no type variable that another one bounds; an overloaded call must satisfy both.
    """

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> M_co: ...  # type: ignore[overload-cannot-match]


class IoContextProvider(Generic[M_contra]):
    """Runs the loops of a policy and the modules on them, for the length of an `async with` block.

    At the start it starts the policy's loops, each on a thread of its own, one after the other in the order of
    declaration; when one can't start, those that run are stopped again. At the end it awaits the modules' `stop()` in
    the reverse order of their creation, and then stops the loops in reverse, whatever went wrong on the way; what did
    is logged, and raised as an `ExceptionGroup` unless the block itself raised.

    Where a module lives is looked up when it is created, or asked for by `io_context` and `ref`: keep what they return,
    and no later call looks anything up.

    Its type parameter are the modules of the policy: a type checker rejects others.

    Args:
        policy: Says which module lives on which loop.
        default: The loop of modules that the policy covers and does not place; the running loop unless given. It has to
            run for as long as the provider does, and is not stopped.
        switch_interval: Seconds after which threads pass the GIL on, set when the provider starts two loops or more on
            a build with a GIL, and restored at the end. None leaves it alone.
        start_timeout: Seconds until all loops are to run.
        checked: Whether modules check their loop: see `create`. A policy can except single loops.
        monitor: Who watches the loops and reports stalls, a running one; True for one of the provider's own, False for
            nobody.
        observe: Where `atoll top` and Prometheus can read what the process does, such as `"127.0.0.1:9464"` or
            `"unix:/run/service.sock"`; the environment variable `ATOLL_OBSERVE` says it otherwise. See
            `atoll.observe.ObserveEndpoint`.
        stop_timeout: Seconds until modules and loops are to have stopped. When a module uses up the time, the others
            are asked to stop all at once, and get one second more. What has not stopped by then is named.

    Raises:
        PlacementError: When an argument can't work; the message says how to mend it.
    """

    def __init__(
        self,
        policy: type[IoContextPolicy[M_contra]],
        *,
        default: IoContext | None = None,
        switch_interval: float | None = SWITCH_INTERVAL,
        start_timeout: float = START_TIMEOUT,
        stop_timeout: float = STOP_TIMEOUT,
        checked: bool = True,
        monitor: LoopMonitor | bool = True,
        observe: str | None = None,
    ) -> None:
        _check_policy(policy)
        if not (default is None or isinstance(default, IoContext)):
            raise PlacementError(f"default={default!r} is not a loop: pass an IoContext, such as IoContext.current()")
        if not isinstance(monitor, (bool, LoopMonitor)):
            raise PlacementError(f"monitor={monitor!r} is no monitor: pass a LoopMonitor that runs, True or False")
        times = {"switch_interval": switch_interval, "start_timeout": start_timeout, "stop_timeout": stop_timeout}
        for option, seconds in times.items():
            if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
                raise PlacementError(f"{option}={seconds!r} is not a positive number of seconds")
        self._title = title_of(policy)
        self._policy = policy
        self._given_default = default
        self._switch_interval = switch_interval
        self._checked = checked
        self._unchecked: set[IoContext] = set()
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._state: Literal["new", "entered", "leaving", "left"] = "new"
        self._default: IoContext | None = None
        self._threads: list[IoContextThread] = []
        self._loops: dict[type, IoContext] = {}
        self._uncounted: set[IoContext] = set()
        self._modules: dict[type, Any] = {}
        self._created: list[type] = []
        self._own_monitor = monitor is True
        self._monitor = LoopMonitor() if monitor is True else monitor or None
        self._gil_gauge = self._monitor is None or self._monitor.options.gil_gauge
        self._endpoint = None if observe is None else ObserveEndpoint(observe, gil_gauge=self._gil_gauge)
        # What is left when the provider ends: the switch interval, the probes, its own monitor.
        self._at_end = contextlib.ExitStack()

    # ------------------------------------------------------------------------------------------------ looking things up

    def io_context(self, module: ModuleClass[..., T, M_contra]) -> IoContext:
        """The loop that `module` lives on. Any thread, within the `async with` block.

        Raises:
            PlacementError: When the policy does not cover the module, or outside the block.
        """
        return self._loops[self._member(module)[0]]

    def ref(self, module: ModuleClass[..., T, M_contra]) -> ModuleRef[T]:
        """A reference to a module that has been created, for calls from other loops. Any thread.

        Raises:
            PlacementError: When the module has not been created, or the policy does not cover it.
        """
        member, wanted = self._member(module)
        instance = self._modules.get(member)
        name = wanted.__qualname__
        if instance is None or isinstance(instance, _Making):
            raise PlacementError(f"{name} has not been created yet: await provider.create({name}) before ref({name})")
        if not isinstance(instance, wanted):
            made, place = type(instance).__qualname__, member.__qualname__
            raise PlacementError(f"the module created for {place} is a {made}, not a {name}: write ref({made})")
        return ModuleRef(self._loops[member], cast("T", instance))

    def placement_of(self, module: type) -> IoContext | None:
        """The loop of a class of which the policy covers some base, or None when it covers none. Any thread.

        Raises:
            PlacementError: Outside the `async with` block.
        """
        self._check_entered()
        member = self._find(module)
        return None if member is None else self._loops[member]

    def counts_for_health(self, io_context: IoContext) -> bool:
        """Whether the whole service is unhealthy when this loop is, by its option `counts_for_health`. Any thread."""
        return io_context not in self._uncounted

    @property
    def monitor(self) -> LoopMonitor | None:
        """Who watches the loops, its health and its stalls; None with `monitor=False`."""
        return self._monitor

    @property
    def io_contexts(self) -> tuple[IoContext, ...]:
        """The policy's loops in the order of declaration, and then the default loop; none outside the block."""
        if self._default is None or self._state == "left":
            return ()
        return (*(thread.io_context for thread in self._threads), self._default)

    def _find(self, module: type) -> type | None:
        return next((base for base in module.__mro__ if base in self._loops), None)

    def _member(self, module: object) -> tuple[type, type]:
        """The module of the policy that `module` is or derives from, and `module`."""
        self._check_entered()
        if not isinstance(module, type):
            raise PlacementError(f"{module!r} is not a class: a module is named by its class")
        member = self._find(module)
        if member is not None:
            return member, module
        name = module.__qualname__
        everything = " | ".join(known.__name__ for known in (*self._loops, module))
        raise PlacementError(
            f"{self._title} does not cover {name}: write class {self._policy.__name__}(IoContextPolicy[{everything}])"
        )

    def _check_entered(self) -> None:
        if self._state == "new":
            raise PlacementError(f"the provider has not been entered: write {self._usage()} and use it there")
        if self._state == "left":
            raise PlacementError(f"the provider has been left and its loops are gone: use it within {self._usage()}")

    def _usage(self) -> str:
        return f"`async with IoContextProvider({self._title}) as provider:`"

    # -------------------------------------------------------------------------------------------------------- modules

    async def create(
        self,
        module: ModuleClass[P, T, M_contra],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Makes a module on its loop, and awaits its `start()` there, if it has one.

        The hooks `start` and `stop` are coroutine functions without parameters.

        Args:
            module: A class that the policy covers, or a subclass of one.
            args: What it is constructed with.
            kwargs: What it is constructed with.

        The module belongs to its loop, and checks it. Elsewhere its data can be neither read nor set, and its methods
        can be looked up, as gRPC's generated code does, but not called: `NotOnLoopError` names both loops and says what
        to write. Names with double underscores, static and class methods are free, and so is everything when the loop
        has been closed. For that the module is of a subclass with the names of its class, made here. On its own loop it
        costs 11 ns per attribute read, 15 ns per attribute set and 32 ns per method call (CPython 3.13, where they take
        6, 6 and 15); `checked=False` saves them, for all modules or in the policy for those of one loop.

        Returns:
            The module. Call it through `ref`.

        When it is cancelled, so is `start()`. A module whose `start()` ends well nevertheless, then or later, has been
        created all the same: `ref` finds it, and it is stopped at the end. One that was not started may be created
        again; that waits until its first `start()` has ended.

        Raises:
            PlacementError: When the policy does not cover the module, or it has been created before.
            Exception: What the constructor or `start()` raised; the module may then be created again.
        """
        member, made = self._member(module)
        name = made.__qualname__
        making = _Making()
        while True:
            self._check_may_create(name)
            earlier = self._modules.setdefault(member, making)
            if not (isinstance(earlier, _Making) and earlier.is_abandoned):
                break
            await earlier.ended()
        if earlier is not making:
            raise PlacementError(
                f"{member.__qualname__} has been created already, and a policy's module exists once: keep what "
                f"create() returned, or use provider.ref({member.__qualname__})"
            )
        home = self._loops[member]
        checked = self._checked and home not in self._unchecked
        try:
            future: LoopFuture[T] = home.submit(
                self._make, member, made, home if checked else None, args, kwargs, name=f"{name}.__init__"
            )
        except BaseException:
            del self._modules[member]
            raise
        making.future = future
        # Whoever waits here may be cancelled, and what goes on then is nobody else's to account for.
        future.add_done_callback(lambda _: self._forget_unless_made(member, making))
        try:
            return await future
        except asyncio.CancelledError:
            making.is_abandoned = True
            future.add_done_callback(functools.partial(_log_unawaited, name))
            raise

    def _check_may_create(self, name: str) -> None:
        self._check_entered()
        if self._state == "leaving":
            raise PlacementError(f"the provider stops, and creates no more modules: create {name} before its end")

    async def _make(
        self, member: type, module: type, checks: IoContext | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 - a module
        """On the module's loop, `checks` unless the module is not to check it."""
        instance = (module if checks is None else checked_class(module, checks))(*args, **kwargs)
        if _has_hook(type(instance), "start"):
            await instance.start()
        self._modules[member] = instance
        self._created.append(member)
        return instance

    def _forget_unless_made(self, member: type, making: "_Making") -> None:
        """Making a module has ended, or will never begin."""
        if self._modules.get(member) is making:
            del self._modules[member]

    # ---------------------------------------------------------------------------------------------- start and end

    async def __aenter__(self) -> Self:
        """Starts the policy's loops.

        Raises:
            PlacementError: When it has been entered before, or the default loop has the name of another.
            BindError: When `observe`, or `ATOLL_OBSERVE`, is no address that can be listened on.
            TimeoutError: When a loop did not run in time; the message names it.
            Exception: What else kept a loop from running. In each case those that ran already are stopped again.
        """
        if self._state != "new":
            raise PlacementError(f"a provider is entered once: construct a new one, IoContextProvider({self._title})")
        default = self._given_default or IoContext.current()
        loops = self._policy._loops  # noqa: SLF001 - the policy's other half
        if default.name in {loop.name for loop in loops}:
            raise PlacementError(
                f"{self._title} names a loop {default.name!r}, as the default loop is named: logs and metrics know "
                f"loops by their names, so write dedicated(..., name=...) with another"
            )
        self._state = "leaving"
        self._default = default
        try:
            self._loops = dict.fromkeys(self._policy._modules, default)  # noqa: SLF001 - the policy's other half
            end = self._now() + self._start_timeout
            if self._endpoint is not None:
                self._at_end.enter_context(self._endpoint)
            else:
                endpoint_from_environment(gil_gauge=self._gil_gauge)
            if self._monitor is not None and self._own_monitor:
                self._at_end.enter_context(self._monitor)
            for loop in loops:
                await self._start_loop(loop, end)
            if self._switch_interval is not None and len(loops) >= _MIN_LOOPS_TO_SWITCH_FOR and gil_is_enabled():
                self._at_end.enter_context(switch_interval(self._switch_interval))
            if default in self._loops.values():
                self._observe(default, PlacementOptions())
        except BaseException:
            try:
                self._log_problems(await self._stop_loops(self._now() + self._stop_timeout))
            finally:
                self._end()
            raise
        self._state = "entered"
        for io_context in self.io_contexts:
            modules = [module.__qualname__ for module, home in self._loops.items() if home is io_context]
            kind = "default loop" if io_context is default else "loop"
            _logger.info("%s %s: %s", kind, io_context.name, ", ".join(modules) or "no modules")
        return self

    async def _start_loop(self, loop: PlacedLoop, end: float) -> None:
        thread = IoContextThread(loop.name, cpu_affinity=loop.placement.cpu_affinity, **loop.options)
        self._threads.append(thread)
        self._loops.update(dict.fromkeys(loop.modules, thread.io_context))
        if not loop.placement.checked:
            self._unchecked.add(thread.io_context)
        started = asyncio.wrap_future(thread.start_soon())
        try:
            async with asyncio.timeout(max(end - self._now(), 0.0)):
                await started
        except TimeoutError:
            if started.done() and not started.cancelled():
                raise  # its own
            raise TimeoutError(
                f"loop {loop.name!r} of {self._title} does not run after start_timeout={self._start_timeout} s: look "
                f"at what its loop_factory waits for"
            ) from None
        self._observe(thread.io_context, loop.placement)

    def _observe(self, io_context: IoContext, placement: PlacementOptions) -> None:
        """Hands a loop that runs to who measures and watches it, as `placement` says."""
        modules = [module.__qualname__ for module, home in self._loops.items() if home is io_context]
        io_context._set_modules(modules)  # noqa: SLF001 - where they live is decided here
        if not placement.counts_for_health:
            self._uncounted.add(io_context)
        if placement.lag_probe is not None:
            self._at_end.enter_context(LagProbe(io_context, placement.lag_probe))
        if self._monitor is not None:
            threshold = math.inf if placement.stall_threshold is None else placement.stall_threshold
            self._monitor.watch(io_context, stall_threshold=threshold, counts_for_health=placement.counts_for_health)

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops the modules and then the loops.

        Raises:
            BaseExceptionGroup: What went wrong, unless the block raised: its exception then has notes instead.
        """
        self._state = "leaving"
        problems: list[BaseException] = []
        end = self._now() + self._stop_timeout
        try:
            problems += await self._stop_modules(end)
        finally:
            try:
                problems += await self._stop_loops(end)
            finally:
                self._end()
        self._log_problems(problems)
        if exception is not None:
            for problem in problems:
                exception.add_note(f"While the provider of {self._title} stopped: {problem!r}")
        if exception is None and problems:
            raise BaseExceptionGroup(f"the provider of {self._title} did not stop cleanly", problems)

    def _log_problems(self, problems: list[BaseException]) -> None:
        for problem in problems:
            _logger.error("while the provider of %s stopped: %s", self._title, problem, exc_info=problem)

    def _end(self) -> None:
        self._at_end.close()
        self._state = "left"
        self._modules.clear()

    async def _stop_modules(self, end: float) -> list[BaseException]:
        """Awaits `stop()` of one module after the other; when the time is up, of all that are left at once."""
        problems: list[BaseException] = await self._wait_for_makings(end)
        late: dict[asyncio.Future[None], type] = {}
        try:
            for member in reversed(self._created):
                if not _has_hook(type(self._modules[member]), "stop"):
                    continue
                try:
                    stopping = self._ask_to_stop(member)
                except AtollError as problem:
                    problems.append(problem)
                    continue
                late[stopping] = member
                if (left := end - self._now()) > 0:
                    await asyncio.wait([stopping], timeout=left)
                    if stopping.done():
                        del late[stopping]
                        problems += self._problem_of(stopping, member)
            if late:
                await asyncio.wait(late, timeout=_FLOOR)
            for stopping, member in late.items():
                problems += self._problem_of(stopping, member)
        finally:
            for stopping in late:
                stopping.cancel()
        return problems

    async def _wait_for_makings(self, end: float) -> list[BaseException]:
        """Waits for modules whose `create()` was cancelled, or is not awaited: those that start are to be stopped."""
        makings = {
            making.ended(): member
            for member, making in list(self._modules.items())
            if isinstance(making, _Making) and making.future is not None
        }
        if not makings:
            return []
        _, late = await asyncio.wait(makings, timeout=max(end - self._now(), _FLOOR))
        return [
            TimeoutError(
                f"{makings[ended].__qualname__}.start() did not end within stop_timeout={self._stop_timeout}, so its "
                f"stop() is not called: {still_running(self._loops[makings[ended]], 'is busy')}"
            )
            for ended in late
        ]

    def _ask_to_stop(self, member: type) -> "asyncio.Future[None]":
        module = self._modules[member]
        name = f"{type(module).__qualname__}.stop"
        return asyncio.wrap_future(self._loops[member].submit(_stop, module, name=name))

    def _problem_of(self, stopping: "asyncio.Future[None]", member: type) -> list[BaseException]:
        name = f"{type(self._modules[member]).__qualname__}.stop()"
        if not stopping.done():
            loop = still_running(self._loops[member], "is busy")
            return [TimeoutError(f"{name} did not end within stop_timeout={self._stop_timeout}: {loop}")]
        if stopping.cancelled():
            return [RuntimeError(f"{name} was cancelled before its end")]
        problem = stopping.exception()
        if problem is None:
            return []
        problem.add_note(f"raised by {name}")
        return [problem]

    async def _stop_loops(self, end: float) -> list[BaseException]:
        """Stops one loop after the other; when the time is up, all that are left at once."""
        problems: list[BaseException] = []
        endings: dict[asyncio.Future[None], IoContextThread] = {}
        try:
            for thread in reversed(self._threads):
                ended = asyncio.wrap_future(thread.stop_soon())
                endings[ended] = thread
                if (left := end - self._now()) > 0:
                    await asyncio.wait([ended], timeout=left)
            if late := [ended for ended in endings if not ended.done()]:
                await asyncio.wait(late, timeout=_FLOOR)
        finally:
            # Whatever interrupts the waiting, all of them are at least asked to stop.
            for thread in self._threads:
                thread.stop_soon()
        for ended, thread in endings.items():
            if not ended.done():
                problems.append(TimeoutError(still_running(thread.io_context, "has not stopped")))
            elif (problem := ended.exception()) is not None:
                problem.add_note(f"it ended loop {thread.io_context.name!r}")
                problems.append(problem)
            else:
                thread.stop()  # joins a thread that is as good as gone
        return problems

    def _now(self) -> float:
        assert self._default is not None  # noqa: S101 - set when entered
        return self._default.now()

    def __repr__(self) -> str:
        return f"<IoContextProvider of {self._title}, {self._state}>"


def _check_policy(policy: object) -> None:
    if not (isinstance(policy, type) and issubclass(policy, IoContextPolicy)) or policy is IoContextPolicy:
        raise PlacementError(
            f"{policy!r} is not a policy: derive one, class Placement(IoContextPolicy[A | B]), and pass the class"
        )


class _Making:
    """Stands for a module while it is being made."""

    def __init__(self) -> None:
        self.future: LoopFuture[Any] | None = None
        # Its create() has been cancelled: it may yet end in a module, or in none.
        self.is_abandoned = False

    def ended(self) -> "asyncio.Future[None]":
        """Done when it has ended, however it did; cancelling that does not cancel the making. On a running loop."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def tell_here() -> None:
            if not ended.done():
                ended.set_result(None)

        def tell(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # nobody waits on a loop that has been closed
                loop.call_soon_threadsafe(tell_here)

        assert self.future is not None  # noqa: S101 - there is one once it has begun
        self.future.add_done_callback(tell)
        return ended


def _log_unawaited(name: str, future: "LoopFuture[Any]") -> None:
    """Logs how making a module went wrong after its `create()` had been cancelled: nobody else is told."""
    if not future.cancelled() and (problem := future.exception()) is not None:
        _logger.error("%s was not created: its create() had been cancelled, and then it raised", name, exc_info=problem)


def _has_hook(module_type: type, name: str) -> bool:
    """Whether it has a coroutine function `name` without parameters: an RPC of that name takes two."""
    method = getattr(module_type, name, None)
    if not inspect.iscoroutinefunction(method):
        return False
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(method).parameters.values()
    return sum(it.default is it.empty and it.kind not in optional for it in parameters) == 1


async def _stop(module: Any) -> None:  # noqa: ANN401 - a module with a hook
    """On the module's loop."""
    await module.stop()
