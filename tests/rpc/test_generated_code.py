"""Generated code, unchanged: servicers are added to the server, and stubs in another process call them."""

# Handlers take what they don't need.
# ruff: noqa: ARG002

import asyncio
from typing import Any

import grpc
import grpc.aio
from tests.rpc.conftest import Log
from tests.rpc.support import ClientProcess, NewLoop, probe_pb2, probe_pb2_grpc, running, stub_client

from atoll import rpc

STUB_CLIENT = """
with grpc.insecure_channel(sys.argv[2]) as channel:
    probe = probe_pb2_grpc.ProbeStub(channel)
    reply = probe.Ask(probe_pb2.Note(text="question", number=-7, payload=b"\\0\\xff"), timeout=20)
    assert (reply.text, reply.number, reply.payload) == ("answer to question", -7, b"\\0\\xff"), reply
    assert probe.Tell(probe_pb2.Note(), timeout=20) == probe_pb2.Note()
    assert probe_pb2_grpc.RecorderStub(channel).Record(probe_pb2.Note(), timeout=20) == probe_pb2.Note()
    many = [probe.Ask.future(probe_pb2.Note(number=number), timeout=20) for number in range(300)]
    assert [future.result().number for future in many] == list(range(300))
"""


class Probe(probe_pb2_grpc.ProbeServicer):  # type: ignore[misc] # generated at test time
    async def Ask(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return probe_pb2.Note(text=f"answer to {request.text}", number=request.number, payload=request.payload)

    def Tell(self, request: Any, context: grpc.ServicerContext) -> Any:
        return request


class Recorder(probe_pb2_grpc.RecorderServicer):  # type: ignore[misc] # generated at test time
    async def Record(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await asyncio.sleep(0)
        return request


async def test_stubs_in_another_process_call_servicers_that_nobody_placed() -> None:
    server = rpc.server()
    probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server)
    probe_pb2_grpc.add_RecorderServicer_to_server(Recorder(), server)
    async with running(server) as target:
        assert await stub_client(target, STUB_CLIENT) == "all is well"


async def test_stubs_in_another_process_call_servicers_on_loops_of_their_own(new_loop: NewLoop) -> None:
    server = rpc.server()
    probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server.on(new_loop("probe")))
    probe_pb2_grpc.add_RecorderServicer_to_server(Recorder(), server.on(new_loop("recorder")))
    async with running(server) as target:
        assert await stub_client(target, STUB_CLIENT) == "all is well"


async def test_the_server_and_its_views_are_grpc_aio_servers(new_loop: NewLoop) -> None:
    server = rpc.server()
    view = server.on(new_loop("module"))
    assert isinstance(server, grpc.aio.Server)
    assert isinstance(server, rpc.Server)
    assert isinstance(view, grpc.aio.Server)


async def test_a_view_passes_everything_but_services_on_to_its_server(new_loop: NewLoop) -> None:
    server = rpc.server()
    view = server.on(new_loop("module"))
    probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), view)
    assert view.add_insecure_port("127.0.0.1:0") > 0
    await view.start()
    assert await view.wait_for_termination(0.01) is True
    await view.stop(None)
    assert await server.wait_for_termination() is False


async def test_a_method_that_the_servicer_does_not_implement_is_unimplemented_in_grpc_aios_words(
    client: ClientProcess, log: Log
) -> None:
    class Empty(probe_pb2_grpc.ProbeServicer):  # type: ignore[misc] # generated at test time
        pass

    server = rpc.server()
    probe_pb2_grpc.add_ProbeServicer_to_server(Empty(), server)
    async with running(server) as target:
        outcome = await client.call(target, "/atoll.tests.v1.Probe/Ask")
    assert outcome.code == "UNIMPLEMENTED"
    assert outcome.details == "Unexpected <class 'NotImplementedError'>: Method not implemented!"
    assert log.take("handler Probe.Ask on loop MainThread raised: NotImplementedError")


async def test_bytes_that_are_no_message_and_replies_of_another_type_are_internal_errors(
    client: ClientProcess, log: Log
) -> None:
    class Wrong(probe_pb2_grpc.ProbeServicer):  # type: ignore[misc] # generated at test time
        async def Ask(self, request: Any, context: Any) -> Any:
            return "a note"

        def Tell(self, request: Any, context: Any) -> None:
            return None

    server = rpc.server()
    probe_pb2_grpc.add_ProbeServicer_to_server(Wrong(), server)
    async with running(server) as target:
        garbage = await client.call(target, "/atoll.tests.v1.Probe/Ask", b"\xff\xff\xff")
        wrong = await client.call(target, "/atoll.tests.v1.Probe/Ask")
        nothing = await client.call(target, "/atoll.tests.v1.Probe/Tell")
    assert (garbage.code, garbage.details) == ("INTERNAL", "Exception deserializing request!")
    assert (wrong.code, wrong.details) == ("INTERNAL", "Failed to serialize response!")
    assert (nothing.code, nothing.details) == ("INTERNAL", "Failed to serialize response!")
    assert log.take("DecodeError")
    # A TypeError, or what protobuf's Python implementation makes of it.
    assert len(log.take("on loop MainThread raised")) == 2
