"""Classes of every kind can be modules that check their loop, or say why they do not."""

from __future__ import annotations

import abc
import asyncio
import functools
import gc
import logging
import sys
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import pytest

from atoll import IoContextPolicy, IoContextProvider, dedicated
from atoll.errors import NotOnLoopError
from atoll.loop import gil_is_enabled

T = TypeVar("T")


class Slotted:
    """Has no dict."""

    __slots__ = ("__weakref__", "total")

    def __init__(self) -> None:
        self.total = 1

    def add(self) -> int:
        self.total += 1
        return self.total


@dataclass
class Record:
    """A dataclass."""

    total: int = 1
    names: list[str] = field(default_factory=list)

    def add(self) -> int:
        self.total += 1
        return self.total


@dataclass(slots=True)
class SlottedRecord:
    """A dataclass without a dict."""

    total: int = 1

    def add(self) -> int:
        self.total += 1
        return self.total


class Careful:
    """Sets attributes in a way of its own."""

    def __init__(self) -> None:
        self.total = 1

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)

    def add(self) -> int:
        self.total += 1
        self.extra = self.total
        del self.extra
        return self.total


class Guessing:
    """Makes up what it has not."""

    def __init__(self) -> None:
        self.total = 1

    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return f"{name} {self.total}"

    def add(self) -> int:
        assert self.anything == f"anything {self.total}"
        self.total += 1
        return self.total


class Abstract(abc.ABC):
    """Has a metaclass."""

    @abc.abstractmethod
    def add(self) -> int: ...


class Concrete(Abstract):
    """A module with a metaclass."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 1

    def add(self) -> int:
        self.total += 1
        return self.total


class Adds(Protocol):
    """A protocol."""

    total: int

    def add(self) -> int: ...


class Explicit(Adds):
    """Implements a protocol by deriving from it."""

    def __init__(self) -> None:
        self.total = 1

    def add(self) -> int:
        self.total += 1
        return self.total


class Typed(Generic[T]):
    """Is generic."""

    def __init__(self) -> None:
        self.total = 1
        self.values: list[T] = []

    def add(self) -> int:
        self.total += 1
        return self.total


class Registered:
    """Counts its subclasses."""

    subclasses: ClassVar[list[type]] = []

    def __init_subclass__(cls, *, needed: bool) -> None:
        assert needed
        cls.subclasses.append(cls)

    def __init__(self) -> None:
        self.total = 1

    def add(self) -> int:
        self.total += 1
        return self.total


class Listed(list[int]):
    """Has a layout of C's."""

    def __init__(self) -> None:
        super().__init__([1])
        self.total = 1

    def add(self) -> int:
        self.append(self.total)
        self.total += 1
        return self.total


class Paired(tuple[int, int]):  # noqa: SLOT001 - with a dict, too
    """Has a layout of C's, of any length."""

    total: int

    def __new__(cls) -> Self:
        made = super().__new__(cls, (1, 2))
        made.total = 1
        return made

    def add(self) -> int:
        self.total += self[0]
        return self.total


class Derived(Record):
    """Calls the method of its base."""

    def add(self) -> int:
        return super().add()


class Conditional:
    """Calls itself."""

    def __init__(self) -> None:
        self.total = 1

    def add(self) -> int:
        return self._deeper(200)

    def _deeper(self, depth: int) -> int:
        if depth:
            return self._deeper(depth - 1)
        self.total += 1
        return self.total


CHECKED: list[Any] = [
    Slotted,
    Record,
    SlottedRecord,
    Guessing,
    Concrete,
    Explicit,
    Typed,
    Registered,
    Listed,
    Paired,
    Derived,
    Conditional,
]


def policy_for(module: Any) -> type[IoContextPolicy[Any]]:
    class One(IoContextPolicy[module]):
        home = dedicated(module)

    return One


@pytest.mark.parametrize("module", CHECKED, ids=lambda module: module.__name__)
def test_classes_of_every_kind_are_checked(module: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with IoContextProvider(policy_for(module)) as provider:
            instance = await provider.create(module)
            assert isinstance(instance, module)
            assert [await provider.ref(module).call(module.add) for _ in range(3)] == [2, 3, 4]
            with pytest.raises(NotOnLoopError, match=r"total was read"):
                _ = instance.total
            with pytest.raises(NotOnLoopError, match=r"total was set"):
                instance.total = 2
            with pytest.raises(NotOnLoopError, match=r"add\(\) was called"):
                instance.add()
            assert await provider.io_context(module).submit(instance.add) == 5
            assert hasattr(instance, "__dict__") == hasattr(module(), "__dict__")

    with caplog.at_level(logging.DEBUG, logger="atoll.placement"):
        asyncio.run(main())
    assert not [record for record in caplog.records if record.levelno == logging.DEBUG]


def test_a_checked_class_is_not_counted_among_its_modules_subclasses_by_its_author() -> None:
    assert Registered.subclasses == []


@dataclass(frozen=True)
class Frozen:
    """Can't be set."""

    total: int = 1

    def add(self) -> int:
        return self.total + 1


@pytest.mark.parametrize("module", [Careful, Frozen])
def test_a_class_that_sets_attributes_in_its_own_way_is_checked_where_it_is_read(
    module: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with IoContextProvider(policy_for(module)) as provider:
            instance = await provider.create(module)
            assert await provider.ref(module).call(module.add) == 2
            with pytest.raises(NotOnLoopError, match=r"total was read"):
                _ = instance.total
            with pytest.raises(NotOnLoopError, match=r"add\(\) was called"):
                instance.add()

    with caplog.at_level(logging.DEBUG, logger="atoll.placement"):
        asyncio.run(main())
    assert f"what others set on {module.__name__} is not checked: it has a __setattr__ of its own" in caplog.text


class Reading:
    """Reads attributes in a way of its own."""

    total = 1

    def __getattribute__(self, name: str) -> object:
        return super().__getattribute__(name)

    def add(self) -> int:
        return self.total + 1


class Local(threading.local):
    """Has an attribute access of C's."""

    def __init__(self) -> None:
        self.total = 1


class Refusing(type):
    """A metaclass that allows no subclass."""

    def __new__(cls, name: str, bases: tuple[type, ...], names: dict[str, Any]) -> Any:
        if bases:
            raise TypeError("no subclasses")
        return super().__new__(cls, name, bases, names)


class Final(metaclass=Refusing):
    """Can't be derived from."""

    total = 1


@pytest.mark.parametrize(
    ("module", "arguments", "reason"),
    [
        (Reading, (), "its class reads attributes in a way of its own (__getattribute__)"),
        (Local, (), "its class reads attributes in a way of its own (__getattribute__)"),
        (Final, (), "it can't be derived from: TypeError('no subclasses')"),
        (range, (3,), "it can't be derived from: TypeError(\"type 'range' is not an acceptable base type\")"),
    ],
)
def test_a_class_that_can_not_be_checked_works_unchecked_and_a_debug_entry_says_why(
    module: Any, arguments: tuple[object, ...], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with IoContextProvider(policy_for(module)) as provider:
            instance = await provider.create(module, *arguments)
            assert type(instance) is module

    with caplog.at_level(logging.DEBUG, logger="atoll.placement"):
        asyncio.run(main())
    assert f"{module.__name__} does not check its loop: {reason}" in caplog.text


def test_more_modules_than_a_loop_finds_at_one_look_are_checked_all_the_same() -> None:
    modules: list[Any] = [type(f"Module{number}", (Record,), {}) for number in range(12)]

    class Crowded(IoContextPolicy[functools.reduce(lambda one, other: one | other, modules)]):  # type: ignore[misc]
        home = dedicated(*modules)

    async def main() -> None:
        async with IoContextProvider[Any](Crowded) as provider:
            instances = [await provider.create(module) for module in modules]
            for module, instance in zip(modules, instances, strict=True):
                assert await provider.ref(module).call(module.add) == 2
                with pytest.raises(NotOnLoopError):
                    instance.add()

    asyncio.run(main())
    gc.collect()
    asyncio.run(main())


@pytest.mark.skipif(
    not gil_is_enabled() and sys.version_info < (3, 14), reason="3.13 without a GIL lets no class go, whoever made it"
)
def test_a_module_and_its_class_leave_nothing_behind() -> None:
    async def main() -> tuple[weakref.ref[Any], weakref.ref[type]]:
        async with IoContextProvider(policy_for(Slotted)) as provider:
            slotted = await provider.create(Slotted)
            return weakref.ref(slotted), weakref.ref(type(slotted))

    module, made_of = asyncio.run(main())
    gc.collect()
    assert module() is None
    assert made_of() is None
    assert not Slotted.__subclasses__()
