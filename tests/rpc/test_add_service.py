"""Services by their descriptors: no generated `_grpc` code, and no grpcio."""

# Handlers take what they don't need.
# ruff: noqa: ARG002

import subprocess
import sys
import threading
from typing import Any

import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import (
    TIMEOUT,
    ClientProcess,
    NewLoop,
    Placed,
    generated,
    probe_pb2,
    running,
)

from atoll import rpc
from atoll.errors import PlacementError, RegistrationError, ServerStateError

PROBE = probe_pb2.DESCRIPTOR.services_by_name["Probe"]
ASK = f"/{PROBE.full_name}/Ask"
TELL = f"/{PROBE.full_name}/Tell"


class Probe:
    async def Ask(self, request: Any, context: Any) -> Any:
        return probe_pb2.Note(text=f"{request.text} on {threading.current_thread().name}", number=request.number + 1)

    def Tell(self, request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("thread", threading.current_thread().name),))
        return request


def note(**fields: Any) -> bytes:
    return bytes(probe_pb2.Note(**fields).SerializeToString())


async def test_a_servicer_is_any_object_with_the_rpcs_names(client: ClientProcess) -> None:
    server = rpc.server()
    server.add_service(PROBE, Probe())
    async with running(server) as target:
        asked = await client.call(target, ASK, note(text="x", number=1))
        told = await client.call(target, TELL, note(text="y"))
    assert probe_pb2.Note.FromString(asked.reply) == probe_pb2.Note(text="x on MainThread", number=2)
    assert told.reply == note(text="y")
    assert dict(told.trailing)["thread"] != "MainThread", "as in grpc.aio, on the thread pool"


async def test_a_servicer_can_be_added_to_a_loop(client: ClientProcess, new_loop: NewLoop) -> None:
    server = rpc.server()
    server.on(new_loop("module")).add_service(PROBE, Probe())
    async with running(server) as target:
        assert b"x on module" in ((await client.call(target, ASK, note(text="x"))).reply or b"")
        assert dict((await client.call(target, TELL)).trailing) == {"thread": "module"}


async def test_the_policy_places_what_is_added_by_its_descriptor(client: ClientProcess, new_loop: NewLoop) -> None:
    placed, other = new_loop("placed"), new_loop("other")
    server = rpc.server(placement=Placed({Probe: placed}))
    server.add_service(PROBE, Probe())
    with pytest.raises(PlacementError, match="the policy places Probe on loop 'placed'"):
        server.on(other).add_service(PROBE, Probe())
    async with running(server) as target:
        assert b"x on placed" in ((await client.call(target, ASK, note(text="x"))).reply or b"")


async def test_a_missing_method_is_unimplemented_as_in_generated_classes(
    client: ClientProcess, new_loop: NewLoop
) -> None:
    class AsksOnly:
        async def Ask(self, request: Any, context: Any) -> Any:
            return request

    for bound in (False, True):
        server = rpc.server()
        (server.on(new_loop("module")) if bound else server).add_service(PROBE, AsksOnly())
        async with running(server) as target:
            assert (await client.call(target, ASK)).code == "OK"
            missing = await client.call(target, TELL)
            assert (missing.code, missing.details) == ("UNIMPLEMENTED", "Method not implemented!")


async def test_a_reply_of_another_class_is_an_error(client: ClientProcess, log: Log) -> None:
    class Wrong:
        async def Ask(self, request: Any, context: Any) -> Any:
            return "no message"

    server = rpc.server()
    server.add_service(PROBE, Wrong())
    async with running(server) as target:
        outcome = await client.call(target, ASK)
        assert (outcome.code, outcome.details) == ("INTERNAL", "Failed to serialize response!")
    # A TypeError; protobuf in Python, as on free-threaded builds, raises AttributeError.
    assert log.take("handler Probe.Ask on loop MainThread raised")


class Uncallable:
    Ask = 5


@pytest.mark.parametrize(
    ("descriptor", "servicer", "message"),
    [
        (probe_pb2.DESCRIPTOR, Probe(), r"this is a file's: DESCRIPTOR.services_by_name\['Probe'\] or"),
        (probe_pb2.Note.DESCRIPTOR, Probe(), r"no service's descriptor: pass module_pb2.DESCRIPTOR.services_by_name"),
        ("atoll.tests.v1.Probe", Probe(), r"no service's descriptor: pass module_pb2.DESCRIPTOR.services_by_name"),
        (PROBE, object(), r"object has none of the methods of atoll.tests.v1.Probe: define Ask, Tell"),
        (PROBE, Probe, r"Probe is a class, and add_service\(\) takes an instance, Probe\(...\)"),
        (PROBE, Uncallable(), r"Uncallable.Ask is 5: an RPC's handler is a method"),
    ],
)
def test_what_cannot_be_added_is_an_error_with_the_remedy(descriptor: Any, servicer: Any, message: str) -> None:
    with pytest.raises(RegistrationError, match=message):
        rpc.Server().add_service(descriptor, servicer)


async def test_a_started_server_takes_no_more_services() -> None:
    server = rpc.server()
    async with running(server):
        with pytest.raises(ServerStateError, match="add everything before start"):
            server.add_service(PROBE, Probe())


PROGRAM = """
import asyncio, sys
sys.path.append(sys.argv[1])
import probe_pb2
from atoll import IoContextThread, rpc

class Probe:
    async def Ask(self, request, context):
        return probe_pb2.Note(text=request.text + "!")

async def main():
    server = rpc.Server()
    with IoContextThread("module") as thread:
        server.on(thread.io_context).add_service(probe_pb2.DESCRIPTOR.services_by_name["Probe"], Probe())
        print(server.add_insecure_port("127.0.0.1:0"), flush=True)
        await server.start()
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(None)
    assert not any(name == "grpc" or name.startswith("grpc.") for name in sys.modules), "grpcio was imported"
    print("without", flush=True)

asyncio.run(main())
"""


def test_neither_generated_service_code_nor_grpcio_is_imported(client: ClientProcess) -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM, str(generated)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        target = f"127.0.0.1:{process.stdout.readline().strip()}"
        asked = client.start(target, ASK, note(text="x")).done.result(TIMEOUT)
        out, log = process.communicate(timeout=20)
    assert (process.returncode, out.strip()) == (0, "without"), log
    assert asked.reply == note(text="x!")
