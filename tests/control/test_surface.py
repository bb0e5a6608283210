"""The check that a change of the public protos does not break clients."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import descriptor_pb2

from atoll_control.api.v1 import admin_pb2, health_pb2, kv_pb2, node_pb2, rules_pb2, task_pb2, token_pb2, watch_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

PROTOS = Path(__file__).parents[2] / "python/atoll_control/api/protos"
FILES = (admin_pb2, health_pb2, kv_pb2, node_pb2, rules_pb2, task_pb2, token_pb2, watch_pb2)


@pytest.fixture(scope="module")
def surface() -> Any:
    spec = importlib.util.spec_from_file_location("surface", PROTOS / "surface.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def descriptors() -> descriptor_pb2.FileDescriptorSet:
    found = descriptor_pb2.FileDescriptorSet()
    for file in FILES:
        file.DESCRIPTOR.CopyToProto(found.file.add())
    return found


def test_what_is_published_is_what_the_protos_say(surface: Any) -> None:
    assert surface.surface(descriptors()) == surface.published()


def _rename(files: dict[str, Any]) -> None:
    files["kv"].message_type[1].field[0].name = "other"


def _number(files: dict[str, Any]) -> None:
    files["admin"].message_type[0].field.add(name="x", number=1, type=9, label=1)
    files["kv"].message_type[1].field[0].number = 99


def _type(files: dict[str, Any]) -> None:
    files["kv"].message_type[1].field[0].type = 12


def _repeated(files: dict[str, Any]) -> None:
    files["kv"].message_type[1].field[0].label = 3


def _method(files: dict[str, Any]) -> None:
    del files["kv"].service[0].method[0]


def _stream(files: dict[str, Any]) -> None:
    files["kv"].service[0].method[0].server_streaming = True


def _value(files: dict[str, Any]) -> None:
    files["node"].enum_type[0].value[1].number = 77


@pytest.mark.parametrize("change", [_rename, _number, _type, _repeated, _method, _stream, _value])
def test_a_change_that_breaks_clients_is_seen(surface: Any, change: Callable[[dict[str, Any]], None]) -> None:
    changed = descriptors()
    change({Path(file.name).stem: file for file in changed.file})
    assert set(surface.published()) - set(surface.surface(changed))


def test_what_is_new_breaks_nobody(surface: Any) -> None:
    changed = descriptors()
    changed.file[0].message_type.add(name="New").field.add(name="x", number=1, type=9, label=1)
    changed.file[0].service[0].method.add(name="Also", input_type=".atoll.v1.New", output_type=".atoll.v1.New")
    assert not set(surface.published()) - set(surface.surface(changed))
