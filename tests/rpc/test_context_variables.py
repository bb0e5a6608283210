"""Each call starts with no context variables set, and keeps its own."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import asyncio
import contextvars
from typing import Any

import pytest
from tests.rpc.support import ClientProcess, NewLoop, path, serving

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def coroutine(request: bytes, context: Any) -> bytes:
    before = variable.get()
    variable.set(request.decode())
    await asyncio.sleep(0)
    return f"{before} {variable.get()}".encode()


async def coroutine_without_await(request: bytes, context: Any) -> bytes:
    before = variable.get()
    variable.set(request.decode())
    return f"{before} {variable.get()}".encode()


def function(request: bytes, context: Any) -> bytes:
    before = variable.get()
    variable.set(request.decode())
    return f"{before} {variable.get()}".encode()


METHODS = {"Coroutine": coroutine, "CoroutineWithoutAwait": coroutine_without_await, "Function": function}


@pytest.mark.parametrize("placed", [True, False])
async def test_calls_see_neither_each_others_variables_nor_the_servers(
    client: ClientProcess,
    new_loop: NewLoop,
    placed: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    variable.set("of the task that starts the server")
    async with serving(new_loop("module") if placed else None, METHODS) as target:
        calls = [
            (str(index), client.start(target, path(method), str(index).encode()))
            for index in range(50)
            for method in METHODS
        ]
        for index, call in calls:
            assert (await call.outcome()).reply == f"unset {index}".encode()
    assert variable.get() == "of the task that starts the server"


async def test_tasks_that_a_handler_starts_inherit_its_variables(client: ClientProcess) -> None:
    async def parent(request: bytes, context: Any) -> bytes:
        variable.set(request.decode())
        return (await asyncio.ensure_future(child())).encode()

    async def child() -> str:
        await asyncio.sleep(0)
        return variable.get()

    async with serving(Parent=parent) as target:
        calls = [(index, client.start(target, path("Parent"), str(index).encode())) for index in range(20)]
        for index, call in calls:
            assert (await call.outcome()).reply == str(index).encode()


async def test_done_callbacks_do_not_leak_variables_into_later_calls(client: ClientProcess, new_loop: NewLoop) -> None:
    async def handler(request: bytes, context: Any) -> bytes:
        before = variable.get()
        context.add_done_callback(lambda _: variable.set("leaked by a callback"))
        return before.encode()

    def plain(request: bytes, context: Any) -> bytes:
        before = variable.get()
        context.add_callback(lambda: variable.set("leaked by a callback"))
        return before.encode()

    async with serving(new_loop("module"), Handler=handler, Plain=plain) as target:
        for method in ("Handler", "Plain", "Handler", "Plain"):
            assert (await client.call(target, path(method))).reply == b"unset"
