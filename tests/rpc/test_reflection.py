"""Reflection, ours and grpcio-reflection's: a client with grpcio-reflection's own database learns what is served."""

# Handlers take what they don't need.
# ruff: noqa: ARG002

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped] # for a test only
from tests.rpc.support import ClientProcess, NewLoop, probe_pb2, probe_pb2_grpc, running, stub_client

from atoll import rpc
from atoll.rpc import _reflection

PROBE = probe_pb2.DESCRIPTOR.services_by_name["Probe"]
SERVICES = [
    "atoll.tests.v1.Probe",
    "atoll.tests.v1.Streams",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
]


def _add_files() -> None:
    """Adds files to protobuf's default pool, which knows them for good."""
    pool = descriptor_pool.Default()
    for name, needs in (("needed", []), ("needing", ["needed.proto"])):
        file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package=f"a.{name}", dependency=needs)
        file.message_type.add(name="Message")
        pool.AddSerializedFile(file.SerializeToString())
    file = descriptor_pb2.FileDescriptorProto(name="extended.proto", package="a.extended", syntax="proto2")
    file.message_type.add(name="Base").extension_range.add(start=100, end=200)
    for number in (101, 100):
        file.extension.add(
            name=f"field_{number}",
            number=number,
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
            extendee=".a.extended.Base",
        )
    pool.AddSerializedFile(file.SerializeToString())


_add_files()

# A pool that knows nothing but what it is told.
BY_REFLECTION = """
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped] # for a test only
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

with grpc.insecure_channel(sys.argv[2]) as channel:
    database = ProtoReflectionDescriptorDatabase(channel)
    services = database.get_services()
    assert set(services) >= {"atoll.tests.v1.Probe", "grpc.reflection.v1alpha.ServerReflection"}, services
    pool = DescriptorPool(database)
    for name in services:
        assert pool.FindServiceByName(name).full_name == name
    ask = pool.FindServiceByName("atoll.tests.v1.Probe").methods_by_name["Ask"]
    request, reply = GetMessageClass(ask.input_type), GetMessageClass(ask.output_type)
    call = channel.unary_unary("/atoll.tests.v1.Probe/Ask", request.SerializeToString, reply.FromString)
    assert call(request(text="x"), timeout=10).text == "x!"
    try:
        pool.FindServiceByName("no.Service")
    except KeyError:
        pass
    else:
        raise AssertionError("there is no such service")
"""


class Probe(probe_pb2_grpc.ProbeServicer):  # type: ignore[misc] # generated at test time
    async def Ask(self, request: Any, context: Any) -> Any:
        return probe_pb2.Note(text=request.text + "!")


async def test_a_client_that_knows_no_message_calls_by_reflection() -> None:
    server = rpc.server(reflection=True)
    probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server)
    async with running(server) as target:
        assert await stub_client(target, BY_REFLECTION) == "all is well"


async def test_a_server_without_grpcio_has_reflection_too() -> None:
    server = rpc.Server(reflection=True)
    server.add_service(PROBE, Probe())
    async with running(server) as target:
        assert await stub_client(target, BY_REFLECTION) == "all is well"


async def test_what_lives_on_loops_is_told_of(new_loop: NewLoop) -> None:
    server = rpc.server(reflection=True)
    server.on(new_loop("module")).add_service(PROBE, Probe())
    async with running(server) as target:
        assert await stub_client(target, BY_REFLECTION) == "all is well"


@pytest.mark.parametrize("bound", [False, True])
async def test_grpcio_reflections_own_servicer_works(new_loop: NewLoop, bound: bool) -> None:  # noqa: FBT001
    server = rpc.server()
    probe_pb2_grpc.add_ProbeServicer_to_server(Probe(), server)
    names = ("atoll.tests.v1.Probe", reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server.on(new_loop("module")) if bound else server)
    async with running(server) as target:
        assert await stub_client(target, BY_REFLECTION) == "all is well"


async def test_without_the_switch_there_is_none(client: ClientProcess) -> None:
    server = rpc.server()
    server.add_service(PROBE, Probe())
    async with running(server) as target:
        for version in _reflection.VERSIONS:
            method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            assert (await client.call(target, method)).code == "UNIMPLEMENTED"


# ------------------------------------------------------------------------------------------------------- each question


@pytest.fixture(params=_reflection.VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def ask(client: ClientProcess, target: str, version: str, **question: Any) -> Any:
    """One question, and its answer."""
    descriptor = _reflection.describe(version).methods[0]
    request = GetMessageClass(descriptor.input_type)(host="here", **question)
    method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    outcome = await client.call(target, method, request.SerializeToString())
    assert outcome.code == "OK", outcome
    response: Any = GetMessageClass(descriptor.output_type).FromString(outcome.reply or b"")
    assert (response.valid_host, response.original_request) == ("here", request)
    return response


def served() -> Any:
    server = rpc.server(reflection=True)
    server.add_service(PROBE, Probe())
    server.add_service(probe_pb2.DESCRIPTOR.services_by_name["Streams"], probe_pb2_grpc.StreamsServicer())
    return server


async def test_the_services_are_listed(client: ClientProcess, version: str) -> None:
    async with running(served()) as target:
        response = await ask(client, target, version, list_services="*")
    assert [service.name for service in response.list_services_response.service] == SERVICES


async def test_health_is_told_of_where_the_transport_serves_it(client: ClientProcess, version: str) -> None:
    server = rpc.server(reflection=True, health=True)
    async with running(server) as target:
        response = await ask(client, target, version, list_services="")
        names = [service.name for service in response.list_services_response.service]
        assert names == ["grpc.health.v1.Health", *SERVICES[2:]]
        response = await ask(client, target, version, file_containing_symbol="grpc.health.v1.Health.Watch")
        assert b"HealthCheckResponse" in response.file_descriptor_response.file_descriptor_proto[0]


async def test_files_are_found_by_their_name_and_by_what_they_hold(client: ClientProcess, version: str) -> None:
    expected = probe_pb2.DESCRIPTOR.serialized_pb
    async with running(served()) as target:
        for question in (
            {"file_by_filename": "probe.proto"},
            {"file_containing_symbol": "atoll.tests.v1.Probe"},
            {"file_containing_symbol": "atoll.tests.v1.Probe.Ask"},
            {"file_containing_symbol": "atoll.tests.v1.Note"},
        ):
            response = await ask(client, target, version, **question)
            assert list(response.file_descriptor_response.file_descriptor_proto) == [expected]


async def test_a_file_comes_with_all_that_it_needs(client: ClientProcess, version: str) -> None:
    async with running(served()) as target:
        response = await ask(client, target, version, file_by_filename="needing.proto")
    files = map(descriptor_pb2.FileDescriptorProto.FromString, response.file_descriptor_response.file_descriptor_proto)
    assert [file.name for file in files] == ["needing.proto", "needed.proto"]


async def test_services_whose_descriptors_have_a_pool_of_their_own_are_found(
    client: ClientProcess, version: str
) -> None:
    file = descriptor_pb2.FileDescriptorProto(name="private.proto", package="a.private")
    file.message_type.add(name="Empty")
    file.service.add(name="Private").method.add(
        name="Ask", input_type=".a.private.Empty", output_type=".a.private.Empty"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    server = rpc.server(reflection=True)
    server.add_service(pool.FindServiceByName("a.private.Private"), Probe())
    async with running(server) as target:
        response = await ask(client, target, version, file_containing_symbol="a.private.Private")
        assert len(response.file_descriptor_response.file_descriptor_proto) == 1


async def test_extensions_are_told_of(client: ClientProcess, version: str) -> None:
    base = "a.extended.Base"
    async with running(served()) as target:
        numbers = await ask(client, target, version, all_extension_numbers_of_type=base)
        told = numbers.all_extension_numbers_response
        assert (told.base_type_name, list(told.extension_number)) == (base, [100, 101])
        question = {"containing_type": base, "extension_number": 101}
        response = await ask(client, target, version, file_containing_extension=question)
        assert len(response.file_descriptor_response.file_descriptor_proto) == 1
        question["extension_number"] = 199
        missing = await ask(client, target, version, file_containing_extension=question)
        assert missing.error_response.error_code == 5


async def test_what_is_not_there_is_not_found(client: ClientProcess, version: str) -> None:
    async with running(served()) as target:
        for question in (
            {"file_by_filename": "no.proto"},
            {"file_containing_symbol": "no.Symbol"},
            {"all_extension_numbers_of_type": "no.Type"},
            {"all_extension_numbers_of_type": "atoll.tests.v1.Probe"},
            {"file_containing_extension": {"containing_type": "no.Type", "extension_number": 1}},
        ):
            response = await ask(client, target, version, **question)
            assert response.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
            assert "not found" in response.error_response.error_message
        nothing = await ask(client, target, version)
        assert nothing.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert "set one of the fields" in nothing.error_response.error_message


def test_our_messages_are_those_of_grpcio_reflection() -> None:
    ours = _reflection.describe("v1alpha").file
    theirs = reflection_pb2.DESCRIPTOR
    assert set(ours.message_types_by_name) == set(theirs.message_types_by_name)
    for name, message in theirs.message_types_by_name.items():
        mine = ours.message_types_by_name[name]
        assert [(f.name, f.number, f.type, f.is_repeated) for f in mine.fields] == [
            (f.name, f.number, f.type, f.is_repeated) for f in message.fields
        ]
        assert [oneof.name for oneof in mine.oneofs] == [oneof.name for oneof in message.oneofs]
