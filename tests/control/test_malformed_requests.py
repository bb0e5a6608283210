"""Over the wire: every method refuses each malformed request by the name of its field, and the server lives on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import message_factory
from tests.control.malformed import malformed, methods

from atoll_control.api.v1 import kv_pb2, kv_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

pytestmark = pytest.mark.server_process


def ask(channel: grpc.Channel, path: str, method: MethodDescriptor, message: Message) -> None:
    """Calls a method with one message, and reads one answer."""
    kind = channel.stream_stream if method.client_streaming else channel.unary_stream
    call: Any = kind(
        path,
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    answers = call(iter([message]) if method.client_streaming else message, timeout=20)
    next(answers)
    answers.cancel()


def test_every_method_refuses_each_malformed_request_and_names_the_field(serve: Callable[..., Any]) -> None:
    server = serve()
    wrong: list[str] = []
    asked = 0
    with grpc.insecure_channel(server.address) as channel:
        for method in methods():
            path = f"/{method.containing_service.full_name}/{method.name}"
            for field, rule, message in malformed(method.input_type):
                asked += 1
                try:
                    ask(channel, path, method, message)
                except grpc.RpcError as error:
                    code, details = error.code(), error.details() or ""
                    if code is grpc.StatusCode.INVALID_ARGUMENT and details.startswith(field):
                        continue
                    wrong.append(f"{path}: {rule}: {code.name} {details}")
                else:
                    wrong.append(f"{path}: {rule}: was let pass")
        kv = kv_pb2_grpc.KvServiceStub(channel)
        assert kv.Put(kv_pb2.PutRequest(key=b"k"), timeout=20).applied
    assert wrong == []
    assert asked >= 180
