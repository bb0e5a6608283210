"""`rpc.serve`, in processes of their own: signals end them, and calls in flight may finish."""

# Handlers take what they don't need.
# ruff: noqa: ARG001

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.rpc.conftest import LOOPS
from tests.rpc.support import TIMEOUT, ClientProcess, add_methods, path

from atoll import rpc
from atoll.errors import ServerStateError

PROGRAM = """
import asyncio, logging, signal, sys
import grpc
from atoll import rpc

logging.basicConfig(level=logging.INFO, stream=sys.stderr)
logging.captureWarnings(True)
release = asyncio.Event()

async def hold(request, context):
    print("entered", flush=True)
    await release.wait()
    return b"finished"

async def raise_exit(request, context):
    raise SystemExit(7)

async def main():
    # -X dev has asyncio warn of what takes long, as anything does on a machine that is busy.
    asyncio.get_running_loop().slow_callback_duration = 60
    server = rpc.server()
    methods = dict(Hold=hold, Exit=raise_exit)
    handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
    server.add_registered_method_handlers("a.Service", handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, release.set)
    serving = asyncio.ensure_future(rpc.serve(server, grace=float(sys.argv[1])))
    await asyncio.sleep(0)
    print(port, flush=True)
    await serving
    print("served", flush=True)

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


class Served:
    def __init__(self, grace: float, loop: str) -> None:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM, str(grace), loop]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.target = f"127.0.0.1:{self.line()}"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_for_log(self, text: str) -> None:
        assert self.process.stderr is not None
        assert any(text in line for line in iter(self.process.stderr.readline, ""))

    def end(self) -> tuple[int, str, str]:
        out, log = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, out.strip(), log


@pytest.fixture(params=list(LOOPS))
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def served(loop: str) -> Iterator[Served]:
    made = Served(TIMEOUT, loop)
    yield made
    made.process.kill()
    made.process.communicate()


def no_noise(log: str) -> bool:
    return not any(sign in log for sign in ("Traceback", "destroyed", "never retrieved", "Warning", "ERROR", "WARNING"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_zero(served: Served, number: signal.Signals) -> None:
    served.process.send_signal(number)
    code, out, log = served.end()
    assert (code, out) == (0, "served"), log
    assert no_noise(log), log
    assert f"{number.name}: stopping within" in log


def test_a_call_in_flight_finishes_after_the_signal(served: Served, client: ClientProcess) -> None:
    call = client.start(served.target, "/a.Service/Hold")
    assert served.line() == "entered"
    served.process.send_signal(signal.SIGTERM)
    served.wait_for_log("SIGTERM: stopping within")
    served.process.send_signal(signal.SIGUSR1)
    code, out, log = served.end()
    assert (code, out) == (0, "served"), log
    assert call.done.result(TIMEOUT).reply == b"finished"
    assert no_noise(log), log


def test_a_second_signal_stops_it_at_once(served: Served, client: ClientProcess) -> None:
    call = client.start(served.target, "/a.Service/Hold")
    assert served.line() == "entered"
    served.process.send_signal(signal.SIGTERM)
    served.wait_for_log("SIGTERM: stopping within")
    assert not call.done.done()
    served.process.send_signal(signal.SIGINT)
    code, out, log = served.end()
    assert (code, out) == (0, "served"), log
    assert call.done.result(TIMEOUT).code == "UNAVAILABLE"
    assert no_noise(log), log
    assert "SIGINT: stopping at once" in log


def test_calls_in_flight_are_cancelled_when_the_grace_is_over(loop: str, client: ClientProcess) -> None:
    served = Served(0.1, loop)
    call = client.start(served.target, "/a.Service/Hold")
    assert served.line() == "entered"
    served.process.send_signal(signal.SIGTERM)
    code, out, log = served.end()
    assert (code, out) == (0, "served"), log
    assert call.done.result(TIMEOUT).code == "UNAVAILABLE"
    assert no_noise(log), log


def test_a_handler_that_exits_ends_the_process_with_its_code(served: Served, client: ClientProcess) -> None:
    call = client.start(served.target, "/a.Service/Exit")
    code, _, log = served.end()
    assert code == 7, log
    assert call.done.result(TIMEOUT).code in {"UNKNOWN", "UNAVAILABLE"}


async def test_serving_outside_the_main_thread_says_what_to_do_instead() -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(rpc.serve(rpc.server()))
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join, TIMEOUT)
    assert len(raised) == 1
    assert "call server.start() and server.stop()" in str(raised[0])


async def test_a_server_that_is_stopped_by_other_means_ends_the_serving() -> None:
    server = rpc.server()
    server.add_insecure_port("127.0.0.1:0")
    serving = asyncio.ensure_future(rpc.serve(server))
    await asyncio.sleep(0)
    await server.stop(None)
    await asyncio.wait_for(serving, TIMEOUT)


async def answer(request: bytes, context: Any) -> bytes:
    return request


async def served_here(client: ClientProcess, server: Any) -> "tuple[str, asyncio.Future[None]]":
    """Serves on this loop; gives the address, once it answers, and the serving."""
    add_methods(server, Answer=answer)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    serving = asyncio.ensure_future(rpc.serve(server))
    assert (await client.call(target, path("Answer"))).code == "OK"
    return target, serving


async def test_a_signal_ends_all_that_is_served_on_a_loop(client: ClientProcess) -> None:
    servers = [await served_here(client, rpc.server()) for _ in range(2)]
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(asyncio.gather(*(serving for _, serving in servers)), TIMEOUT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_serving_a_server_twice_is_an_error_and_the_first_serving_goes_on(client: ClientProcess) -> None:
    server = rpc.server()
    target, serving = await served_here(client, server)
    with pytest.raises(ServerStateError, match="has been started"):
        await rpc.serve(server)
    assert (await client.call(target, path("Answer"))).code == "OK"
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(serving, TIMEOUT)


@pytest.mark.parametrize("how", ["of the loop", "of Python"])
async def test_a_handler_of_another_signal_may_stop_the_server_more_than_once(client: ClientProcess, how: str) -> None:
    loop = asyncio.get_running_loop()
    server = rpc.server()
    _, serving = await served_here(client, server)
    stops: list[Any] = []

    def stop(*_: object) -> None:
        stops.append(asyncio.run_coroutine_threadsafe(server.stop(None if stops else 3600), loop))

    if how == "of the loop":
        loop.add_signal_handler(signal.SIGUSR1, stop)
    else:
        signal.signal(signal.SIGUSR1, stop)
    try:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        await asyncio.wait_for(serving, TIMEOUT)
        for each in stops:
            await asyncio.wait_for(asyncio.wrap_future(each), TIMEOUT)
    finally:
        if how == "of the loop":
            loop.remove_signal_handler(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


async def test_cancelling_the_serving_stops_the_server(client: ClientProcess) -> None:
    server = rpc.server()
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    serving = asyncio.ensure_future(rpc.serve(server))
    assert (await client.call(target, path("Nothing"))).code == "UNIMPLEMENTED"
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert await server.wait_for_termination(0) is False
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
