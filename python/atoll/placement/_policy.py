"""`IoContextPolicy` and `dedicated`: which module lives on which loop, checked when the class is made.

A policy can't be extended by a subclass: it is read in one place, and its type parameter says all that it covers.
"""

import sys
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, Unpack

from atoll.errors import PlacementError
from atoll.loop import IoContextOptions
from atoll.placement._options import DedicatedOptions, PlacementOptions, checked_options

M = TypeVar("M")


@dataclass(frozen=True, eq=False)
class Dedicated:
    """A loop of a policy, as `dedicated` was told of it.

    Attributes:
        modules: The classes that live on it.
        name: The loop's name; None where the attribute's name is meant.
        options: The settings, as given.
    """

    modules: tuple[type, ...]
    name: str | None
    options: DedicatedOptions


def dedicated(*modules: type, name: str | None = None, **options: Unpack[DedicatedOptions]) -> Dedicated:
    """A loop of its own for `modules`, as the value of an attribute of an `IoContextPolicy`.

    Besides the settings of `IoContext`, such as `max_queued`, the options are:

    - `lag_probe`: whether the loop's lag is measured, or the seconds between two measurements; 0.25 unless given.
    - `stall_threshold`: seconds that a handler may run before a report with its stack is logged; 0.1 unless given, None
      for no reports.
    - `cpu_affinity`: the numbers of the CPUs that the loop's thread may run on; all unless given. Threads that its
      handlers start inherit them. Where threads can't be bound (macOS) a warning is logged at the start instead.
    - `counts_for_health`: whether the service is unhealthy when this loop is; True unless given.
    - `checked`: whether its modules refuse to be touched on other loops (see `IoContextProvider.create`); True unless
      given.

    They are checked when the policy's class is made.

    Args:
        modules: The classes that live on it; several share the loop.
        name: The loop's name; the attribute's name unless given.
        options: What differs from the defaults.
    """
    return Dedicated(modules, name, options)


@dataclass(frozen=True)
class PlacedLoop:
    """A checked loop of a policy.

    Attributes:
        name: The loop's name.
        modules: The classes that live on it.
        options: The settings of `IoContext` that were given.
        placement: The others.
    """

    name: str
    modules: tuple[type, ...]
    options: IoContextOptions
    placement: PlacementOptions


class IoContextPolicy(Generic[M]):
    """Says which module lives on which loop. Derive from it with the union of all modules as the parameter:

        class Placement(IoContextPolicy[NodeManager | KvManager | Metrics]):
            node_io_context = dedicated(NodeManager)
            kv_io_context = dedicated(KvManager, name="kv", max_queued=10_000)

    Modules of the union that no attribute places live on the default loop. Everything is checked here, before anything
    starts.

    Raises:
        PlacementError: When the policy contradicts itself; the message shows the right line.
    """  # noqa: D415 - the colon leads to the example

    _modules: ClassVar[tuple[type, ...]]
    _loops: ClassVar[tuple[PlacedLoop, ...]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Checks the policy."""
        super().__init_subclass__(**kwargs)
        if cls.__bases__ != (IoContextPolicy,):
            raise PlacementError(
                f"{title_of(cls)} extends a policy, which is to be read in one place: write all its loops into "
                f"one class, class {cls.__name__}(IoContextPolicy[A | B])"
            )
        cls._modules = _Checker(cls).declared_modules()
        cls._loops = tuple(_Checker(cls).loops(cls._modules))

    def __init__(self) -> None:
        name = type(self).__name__
        raise PlacementError(f"a policy has no instances: pass the class, IoContextProvider({name})")


def title_of(policy: type) -> str:
    """The policy's name in messages."""
    return policy.__qualname__.rpartition("<locals>.")[2]


class _Checker:
    """Reads one policy; its errors say where the mistake is and show the right line."""

    def __init__(self, policy: type[IoContextPolicy[Any]]) -> None:
        self._policy = policy
        self._title = title_of(policy)

    def declared_modules(self) -> tuple[type, ...]:
        """The members of the type parameter."""
        bases = vars(self._policy).get("__orig_bases__", ())
        base = next((base for base in bases if typing.get_origin(base) is IoContextPolicy), None)
        if base is None:
            raise PlacementError(
                f"{self._title} does not say which modules it covers: write "
                f"class {self._policy.__name__}(IoContextPolicy[A | B]) with all of them"
            )
        (parameter,) = typing.get_args(base)
        if parameter in (typing.Never, typing.NoReturn):
            return ()
        union = typing.get_origin(parameter) in (types.UnionType, typing.Union)
        members = typing.get_args(parameter) if union else (parameter,)
        return tuple(self._class(member, f"IoContextPolicy[...] of {self._title}") for member in members)

    def _class(self, module: object, where: str) -> type:
        module = typing.get_origin(module) or module
        if module in (Any, object, type(None)):
            raise PlacementError(f"{where}: {module!r} is no module: name the classes that keep the service's state")
        if isinstance(module, type):
            return module
        if isinstance(module, (str, typing.ForwardRef)):
            name = module if isinstance(module, str) else module.__forward_arg__
            raise PlacementError(f"{where}: {name!r} is a string, and a module is a class: import it and write {name}")
        raise PlacementError(f"{where}: {module!r} is not a class: a module is named by its class")

    def loops(self, declared: tuple[type, ...]) -> Iterator[PlacedLoop]:
        """The policy's loops in the order of declaration."""
        names: dict[str, str] = {}
        places: dict[type, str] = {}
        seen: dict[int, str] = {}
        for attribute, value in self._attributes():
            where = f"{self._title}.{attribute}"
            spec = self._dedicated(attribute, value)
            if (other := seen.setdefault(id(spec), attribute)) != attribute:
                raise PlacementError(f"{where} is the same loop as {other}: keep one of the two lines")
            modules = self._modules_of(attribute, spec)
            options, placement = self._options(attribute, spec)
            name = attribute if spec.name is None else spec.name
            self._check_name(attribute, name, modules)
            if (other := names.setdefault(name, attribute)) != attribute:
                raise PlacementError(
                    f"{where}: the loop of {other} has the name {name!r} too, and logs and metrics know loops by their "
                    f"names: write {attribute} = {_line(modules, f'name={attribute!r}')}"
                )
            for module in modules:
                self._check_place(attribute, module, declared, places)
            yield PlacedLoop(name, modules, options, placement)

    def _attributes(self) -> Iterator[tuple[str, object]]:
        own = vars(self._policy)
        for name in _annotated(self._policy):
            if name not in own and not name.startswith("_"):
                raise PlacementError(f"{self._title}.{name} has no value: write {name} = dedicated(Module)")
        for name, value in own.items():
            if not name.startswith("_"):
                yield name, value

    def _dedicated(self, attribute: str, value: object) -> Dedicated:
        if isinstance(value, Dedicated):
            return value
        where = f"{self._title}.{attribute}"
        if isinstance(value, type):
            raise PlacementError(
                f"{where} is a class, and a policy holds loops: write {attribute} = {_line((value,))}",
            )
        if value is dedicated:
            raise PlacementError(f"{where} is the function itself: write {attribute} = dedicated(Module)")
        raise PlacementError(
            f"{where} is {value!r}, and a policy holds nothing but its loops: write {attribute} = dedicated(Module), "
            f"or move it elsewhere"
        )

    def _modules_of(self, attribute: str, spec: Dedicated) -> tuple[type, ...]:
        where = f"{self._title}.{attribute}"
        if not spec.modules:
            raise PlacementError(
                f"{where} is a loop without a module: name what lives on it, {attribute} = dedicated(Module), or "
                f"remove the line"
            )
        return tuple(self._class(module, where) for module in spec.modules)

    def _check_name(self, attribute: str, name: object, modules: tuple[type, ...]) -> None:
        if not isinstance(name, str) or not name:
            raise PlacementError(
                f"{self._title}.{attribute}: name={name!r} names no loop: write {attribute} = {_line(modules)}, or "
                f"a name that is not empty"
            )

    def _options(self, attribute: str, spec: Dedicated) -> tuple[IoContextOptions, PlacementOptions]:
        try:
            return checked_options(spec.options)
        except ValueError as error:
            raise PlacementError(f"{self._title}.{attribute}: {error}") from None

    def _check_place(self, attribute: str, module: type, declared: tuple[type, ...], places: dict[type, str]) -> None:
        where = f"{self._title}.{attribute}"
        name = module.__name__
        if module not in declared:
            everything = " | ".join(member.__name__ for member in (*declared, module))
            raise PlacementError(
                f"{where} places {name}, which the policy does not cover: write "
                f"class {self._policy.__name__}(IoContextPolicy[{everything}])"
            )
        if module not in places:
            places[module] = attribute
            return
        if places[module] == attribute:
            raise PlacementError(f"{where} names {name} twice: name it once")
        raise PlacementError(
            f"{where} places {name}, which lives on {places[module]} already, and a module lives on one loop: remove "
            f"it from one of the two lines"
        )


def _line(modules: tuple[type, ...], *more: str) -> str:
    return f"dedicated({', '.join([*(module.__name__ for module in modules), *more])})"


def _annotated(policy: type) -> Iterable[str]:
    if sys.version_info >= (3, 14):
        import annotationlib  # noqa: PLC0415 - new in 3.14

        return annotationlib.get_annotations(policy, format=annotationlib.Format.FORWARDREF)
    return typing.cast("dict[str, Any]", vars(policy).get("__annotations__", {}))
