"""`grpc.health.v1`, asked by stock clients while loops are stuck and the GIL is held."""

# Handlers take what they don't need.
# ruff: noqa: ARG001, ARG002

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from tests.rpc.support import TIMEOUT, ClientProcess, NewLoop, Placed, add_methods, path, running, until, wait_for

import atoll
from atoll import rpc
from atoll.observe import Readiness

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
QUICK = rpc.HealthOptions(threshold=0.2, interval=0.02, recover_after=2)


async def nothing(request: bytes, context: Any) -> bytes:
    return b""


async def status(client: ClientProcess, target: str, service: str) -> int | str:
    """The status of a service, or the code of the error."""
    request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    outcome = await client.call(target, CHECK, request, channel="health")
    if outcome.code != "OK":
        return outcome.code
    assert outcome.reply is not None
    return int(health_pb2.HealthCheckResponse.FromString(outcome.reply).status)


async def comes_to(client: ClientProcess, target: str, service: str, wanted: int) -> None:
    async with asyncio.timeout(TIMEOUT):
        while await status(client, target, service) != wanted:  # noqa: ASYNC110 - asked over the network
            await asyncio.sleep(0.01)


async def test_each_service_that_keeps_up_is_serving(client: ClientProcess) -> None:
    server = rpc.server(health=True)
    add_methods(server, Answer=nothing, service="a.One")
    async with running(server) as target:
        assert [await status(client, target, name) for name in ("", "a.One", "liveness")] == [SERVING] * 3
        assert await status(client, target, "no.Such") == "NOT_FOUND"


async def test_a_stuck_loop_makes_its_services_not_serving_and_no_others(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    stuck, free = new_loop("stuck"), new_loop("free")
    let_go = threading.Event()
    server = rpc.server(health=QUICK)
    add_methods(server.on(stuck), Answer=nothing, service="a.Stuck")
    add_methods(server.on(free), Answer=nothing, service="a.Free")
    async with running(server) as target:
        stuck.post(wait_for, let_go)
        await comes_to(client, target, "a.Stuck", NOT_SERVING)
        assert await status(client, target, "a.Free") == SERVING
        assert await status(client, target, "") == NOT_SERVING
        assert await status(client, target, "liveness") == SERVING, "it has no threshold unless one is asked for"
        let_go.set()
        await comes_to(client, target, "a.Stuck", SERVING)
        await comes_to(client, target, "", SERVING)


async def test_liveness_has_a_threshold_of_its_own(client: ClientProcess, new_loop: NewLoop) -> None:
    loop = new_loop("stuck")
    let_go = threading.Event()
    server = rpc.server(health=rpc.HealthOptions(threshold=60, liveness_threshold=0.1, interval=0.02))
    add_methods(server.on(loop), Answer=nothing, service="a.Stuck")
    async with running(server) as target:
        loop.post(wait_for, let_go)
        await comes_to(client, target, "liveness", NOT_SERVING)
        assert await status(client, target, "a.Stuck") == SERVING
        let_go.set()
        await comes_to(client, target, "liveness", SERVING)


HOLDS_THE_GIL = """
import asyncio, re, sys, time
from atoll import IoContextThread, rpc

async def main():
    with IoContextThread("holds the GIL") as thread:
        server = rpc.server(health=rpc.HealthOptions(threshold=0.2, interval=0.02, recover_after=2))
        from tests.rpc.test_health import add_methods, nothing
        add_methods(server.on(thread.io_context), Answer=nothing, service="a.Stuck")
        print(server.add_insecure_port("127.0.0.1:0"), flush=True)
        await server.start()
        await asyncio.to_thread(sys.stdin.readline)
        began = time.monotonic()
        await asyncio.wrap_future(thread.io_context.submit(re.match, r"(a+)+$", "a" * 26 + "b"))
        print(time.monotonic() - began, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await server.stop(None)

asyncio.run(main())
"""


async def test_health_is_told_while_one_c_call_holds_the_gil(client: ClientProcess) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDS_THE_GIL, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    target = f"127.0.0.1:{int(await process.stdout.readline())}"
    assert await status(client, target, "a.Stuck") == SERVING
    process.stdin.write(b"hold\n")
    told = asyncio.ensure_future(process.stdout.readline())
    answers = 0
    while not told.done():
        answers += await status(client, target, "a.Stuck") == NOT_SERVING
        await asyncio.sleep(0.01)
    held = float(told.result())
    assert answers > 5, f"while the GIL was held for {held} s"
    process.stdin.write(b"stop\n")
    await process.wait()


async def test_watchers_are_told_of_changes_only_and_last_of_the_end(client: ClientProcess, new_loop: NewLoop) -> None:
    loop = new_loop("stuck")
    let_go = threading.Event()
    server = rpc.server(health=QUICK)
    add_methods(server.on(loop), Answer=nothing, service="a.Stuck")
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    seen: dict[str, list[int]] = {"a.Stuck": [], "no.Such": []}

    async def watch(service: str) -> str:
        stream = client.open(f"127.0.0.1:{port}", WATCH, timeout=60, channel=service)
        await stream.write(health_pb2.HealthCheckRequest(service=service).SerializeToString())
        await stream.take("done_writing")
        # At the end there is a word instead.
        while isinstance(message := await stream.read(), bytes):
            seen[service].append(health_pb2.HealthCheckResponse.FromString(message).status)
        return (await stream.end()).code

    watching = [asyncio.ensure_future(watch(service)) for service in seen]
    await until(lambda: all(seen.values()))
    assert seen == {"a.Stuck": [SERVING], "no.Such": [SERVICE_UNKNOWN]}
    loop.post(wait_for, let_go)
    await until(lambda: seen["a.Stuck"] == [SERVING, NOT_SERVING])
    let_go.set()
    await until(lambda: seen["a.Stuck"] == [SERVING, NOT_SERVING, SERVING])
    server.health.set_serving("no.Such", serving=True)
    await until(lambda: seen["no.Such"] == [SERVICE_UNKNOWN, SERVING])
    began = time.monotonic()
    await server.stop(60)
    assert time.monotonic() - began < 30, "watchers do not use up the grace"
    assert [await asyncio.wait_for(task, TIMEOUT) for task in watching] == ["UNAVAILABLE"] * 2
    assert [statuses[-1] for statuses in seen.values()] == [NOT_SERVING] * 2


async def test_what_the_application_says_counts_until_it_takes_it_back(client: ClientProcess) -> None:
    server = rpc.server(health=True)
    add_methods(server, Answer=nothing, service="a.One")
    server.health.set_serving("a.One", serving=False)
    async with running(server) as target:
        assert await status(client, target, "a.One") == NOT_SERVING
        server.health.set_serving("a.One", serving=None)
        assert await status(client, target, "a.One") == SERVING
        server.health.set_serving("another", serving=True)
        assert await status(client, target, "another") == SERVING


async def test_a_servicer_of_ones_own_comes_before_the_built_in(client: ClientProcess) -> None:
    class Own(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # not typed
        async def Check(self, request: Any, context: Any) -> Any:
            return health_pb2.HealthCheckResponse(status=SERVICE_UNKNOWN)

    server = rpc.server(health=True)
    health_pb2_grpc.add_HealthServicer_to_server(Own(), server)
    async with running(server) as target:
        assert await status(client, target, "") == SERVICE_UNKNOWN


async def test_a_loop_whose_health_does_not_count_leaves_the_whole_serving(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    loop = new_loop("stuck")
    let_go = threading.Event()

    class Uncounted(Placed):
        def counts_for_health(self, io_context: atoll.IoContext) -> bool:
            return io_context is not loop

    server = rpc.server(health=QUICK, placement=Uncounted({}))
    add_methods(server.on(loop), Answer=nothing, service="a.Stuck")
    async with running(server) as target:
        loop.post(wait_for, let_go)
        await comes_to(client, target, "a.Stuck", NOT_SERVING)
        assert await status(client, target, "") == SERVING
        let_go.set()


def http(target: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{target}{path}", timeout=TIMEOUT) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_the_port_tells_over_http1_what_the_health_service_tells(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    loop = new_loop("stuck")
    let_go = threading.Event()
    readiness = Readiness()
    options = rpc.HealthOptions(threshold=0.1, liveness_threshold=0.3, interval=0.02, recover_after=1)
    server = rpc.server(health=options, readiness=readiness)
    add_methods(server.on(loop), Answer=nothing, service="a.Stuck")
    async with running(server) as target:

        async def get(path: str) -> tuple[int, str]:
            return await asyncio.to_thread(http, target, path)

        readiness.set("store", ok=True)
        assert await get("/livez") == (200, "ok\n")
        assert await get("/readyz") == (200, "[+]server ok\n[+]store ok\nreadyz check passed\n")
        readiness.set("store", ok=False, reason="recovering")
        assert await get("/readyz") == (503, "[+]server ok\n[-]store: recovering\nreadyz check failed\n")
        status, body = await get("/readyz?format=json")
        assert (status, json.loads(body)["conditions"][1]["reason"]) == (503, "recovering")
        loop.post(wait_for, let_go, name="KvService.Put")
        await comes_to(client, target, "liveness", NOT_SERVING)
        status, text = await get("/livez")
        assert (status, text.startswith("loop stuck has made no progress for ")) == (503, True)
        assert "KvService.Put runs for " in text
        assert "[-]server: loop stuck has made no progress for " in (await get("/readyz"))[1]
        let_go.set()
        await comes_to(client, target, "liveness", SERVING)
        assert (await get("/livez"))[0] == 200


async def test_the_port_of_a_server_without_health_lives_and_is_ready_while_it_answers() -> None:
    server = rpc.server()
    add_methods(server, Answer=nothing)
    async with running(server) as target:
        assert await asyncio.to_thread(http, target, "/livez") == (200, "ok\n")
        expected = "[+]server ok\nreadyz check passed\n"
        assert await asyncio.to_thread(http, target, "/readyz") == (200, expected)


async def test_without_the_switch_there_is_no_health_service(client: ClientProcess) -> None:
    server = rpc.server()
    add_methods(server, Answer=nothing)
    with pytest.raises(RuntimeError, match="health=True"):
        server.health.set_serving("", serving=True)
    async with running(server) as target:
        assert await status(client, target, "") == "UNIMPLEMENTED"
        assert (await client.call(target, path("Answer"))).code == "OK"


def test_health_options_that_can_not_work_are_refused() -> None:
    for wrong in ({"threshold": 0}, {"interval": -1}, {"liveness_threshold": 0}, {"recover_after": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            rpc.HealthOptions(**wrong)
    with pytest.raises(TypeError, match="HealthOptions"):
        rpc.server(health=5)  # type: ignore[arg-type]
