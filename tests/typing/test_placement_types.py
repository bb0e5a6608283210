"""What type checkers know of placement and of calls between modules. mypy and pyright check it; nothing here runs."""

from typing import TYPE_CHECKING, assert_type

import atoll

# pyright: reportUnnecessaryTypeIgnoreComment=true

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Nodes:
    """A module."""

    def __init__(self, limit: int, *, region: str = "") -> None: ...

    def drain(self, node: str, /, *, force: bool = False) -> int:
        """A function."""
        raise NotImplementedError

    async def wait_drained(self, node: str) -> list[str]:
        """A coroutine function."""
        raise NotImplementedError

    def forget(self) -> None:
        """A function without a result."""


class FastNodes(Nodes):
    """A subclass of a module."""


class Kv:
    """Another module."""

    async def get(self, key: str) -> bytes | None:
        """A coroutine function."""
        raise NotImplementedError


class Stranger:
    """No module of the policy."""

    def hello(self) -> str:
        """A function."""
        raise NotImplementedError


class Placement(atoll.IoContextPolicy[Nodes | Kv]):
    """The policy."""

    nodes_io_context = atoll.dedicated(Nodes, max_queued=10)


class Watched(atoll.IoContextPolicy[Nodes | Kv]):
    """A policy that says all that can be said of a loop."""

    nodes = atoll.dedicated(
        Nodes, name="n", lag_probe=0.5, stall_threshold=0.01, cpu_affinity=range(2), counts_for_health=False
    )
    kv = atoll.dedicated(Kv, lag_probe=True, stall_threshold=None, cpu_affinity={0}, recording=False)


class OneLoop(atoll.IoContextPolicy[Nodes | Kv]):
    """Another policy for the same modules."""

    shared_io_context = atoll.dedicated(Nodes, Kv, name="shared")


async def a_provider_knows_its_modules(provider: atoll.IoContextProvider[Nodes | Kv]) -> None:
    assert_type(provider.io_context(Nodes), atoll.IoContext)
    assert_type(provider.ref(Kv), atoll.ModuleRef[Kv])
    assert_type(provider.ref(FastNodes), atoll.ModuleRef[FastNodes])
    assert_type(await provider.create(Nodes, 3, region="here"), Nodes)
    assert_type(await provider.create(FastNodes, 3), FastNodes)
    assert_type(await provider.create(Kv), Kv)
    assert_type(provider.placement_of(Stranger), atoll.IoContext | None)


async def a_provider_rejects_other_modules(provider: atoll.IoContextProvider[Nodes | Kv]) -> None:
    provider.io_context(Stranger)  # type: ignore[arg-type]
    provider.ref(Stranger)  # type: ignore[arg-type]
    await provider.create(Stranger)  # type: ignore[arg-type]


async def a_provider_of_a_policy_rejects_modules_outside_it() -> None:
    async with atoll.IoContextProvider(Watched, start_timeout=1.0) as provider:
        assert_type(provider.io_context(FastNodes), atoll.IoContext)
        provider.io_context(Stranger)  # type: ignore[arg-type]
        provider.io_context(Nodes(1))  # type: ignore[arg-type]
        provider.io_context("Nodes")  # type: ignore[arg-type]
        await provider.create(Stranger)  # type: ignore[arg-type]
        await provider.create(Nodes)  # type: ignore[call-arg]


def a_policy_is_given_as_its_class(instance: Watched) -> None:
    atoll.IoContextProvider(instance)  # type: ignore[arg-type]
    atoll.IoContextProvider(Nodes)  # type: ignore[arg-type]


async def a_provider_checks_what_a_module_is_made_of(provider: atoll.IoContextProvider[Nodes | Kv]) -> None:
    await provider.create(Nodes)  # type: ignore[call-arg]
    await provider.create(Nodes, "three")  # type: ignore[arg-type]
    await provider.create(Kv, 1)  # type: ignore[call-arg]


async def a_provider_takes_its_modules_from_the_policy(one_loop: bool) -> None:  # noqa: FBT001
    assert_type(atoll.IoContextProvider(Placement), atoll.IoContextProvider[Nodes | Kv])
    async with atoll.IoContextProvider(OneLoop if one_loop else Placement) as provider:
        assert_type(provider.ref(Nodes), atoll.ModuleRef[Nodes])
        provider.ref(Stranger)  # type: ignore[arg-type]


async def a_call_has_the_type_of_the_method(nodes: atoll.ModuleRef[Nodes], kv: atoll.ModuleRef[Kv]) -> None:
    assert_type(await nodes.call(Nodes.drain, "a", force=True), int)
    assert_type(await nodes.call(Nodes.wait_drained, "a"), list[str])
    assert_type(await nodes.call(Nodes.wait_drained, node="a"), list[str])
    assert_type(await kv.call(Kv.get, "key"), bytes | None)
    assert_type(nodes.post(Nodes.drain, "a"), None)
    assert_type(nodes.post(Nodes.wait_drained, "a"), None)


async def a_call_checks_arguments_and_module(nodes: atoll.ModuleRef[Nodes]) -> None:
    await nodes.call(Nodes.drain)  # type: ignore[call-overload]
    await nodes.call(Nodes.drain, 1)  # type: ignore[call-overload]
    await nodes.call(Nodes.drain, "a", forec=True)  # type: ignore[call-arg, arg-type]
    await nodes.call(Kv.get, "key")  # type: ignore[call-overload]
    nodes.post(Nodes.drain, 1)  # type: ignore[arg-type]
    nodes.post(Kv.get, "key")  # type: ignore[arg-type]


def a_call_has_to_be_awaited(nodes: atoll.ModuleRef[Nodes]) -> "Awaitable[int]":
    return nodes.call(Nodes.drain, "a")


def options_of_a_loop_are_known() -> None:
    atoll.dedicated(Nodes, max_queued="many")  # type: ignore[arg-type]
    atoll.dedicated(Nodes, max_queed=1)  # type: ignore[call-arg]
    atoll.dedicated(Nodes, max_queued={"bulk": 10}, lane_weights={"control": 1}, seed=7)
    atoll.dedicated(Nodes, max_queued={"urgent": 10})  # type: ignore[dict-item]
    atoll.dedicated(Nodes, lag_prob=True)  # type: ignore[call-arg]
    atoll.dedicated(Nodes, lag_probe="often")  # type: ignore[arg-type]
    atoll.dedicated(Nodes, lag_probe=None)  # type: ignore[arg-type]
    atoll.dedicated(Nodes, stall_threshold="short")  # type: ignore[arg-type]
    atoll.dedicated(Nodes, cpu_affinity=1)  # type: ignore[arg-type]
    atoll.dedicated(Nodes, counts_for_health=None)  # type: ignore[arg-type]
    atoll.dedicated("Nodes")  # type: ignore[arg-type]
    atoll.IoContextThread("loop", cpu_affinity=["0"])  # type: ignore[list-item]
    atoll.IoContextThread("loop", drain_budget=None)  # type: ignore[arg-type]
