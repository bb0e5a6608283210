"""The rules of the protos, and what checks them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tests.control.malformed import RULES, declared, malformed, methods, valid

from atoll_control.api.v1 import kv_pb2, node_pb2, task_pb2, watch_pb2
from atoll_control.server import rules

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message


@pytest.mark.parametrize("method", list(methods()), ids=lambda method: method.full_name)
def test_a_request_that_breaks_a_rule_is_refused_by_the_name_of_its_field(method: MethodDescriptor) -> None:
    assert rules.problem(valid(method.input_type)) is None
    for path, rule, message in malformed(method.input_type):
        found = rules.problem(message)
        assert found is not None, f"{path} breaks {rule} and was let pass"
        assert found.startswith(path), f"{path} breaks {rule}, and the message is: {found}"


@pytest.mark.parametrize("method", list(methods()), ids=lambda method: method.full_name)
def test_every_rule_of_a_request_is_broken_once(method: MethodDescriptor) -> None:
    broken = {rule for _, rule, _ in malformed(method.input_type)}
    assert declared(method.input_type) - broken == set()


def test_the_protos_have_rules() -> None:
    found = set().union(*(declared(method.input_type) for method in methods()))
    assert len(found) >= 150
    assert {rule.partition(": ")[2] for rule in found} == RULES


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (kv_pb2.GetRequest(), "key: is required"),
        (kv_pb2.GetRequest(key=b"x" * 1025), "key: must be at most 1,024 bytes, got 1,025"),
        (kv_pb2.GetRequest(key=b"x", namespace="é" * 129), "namespace: must be at most 256 bytes, got 258"),
        (kv_pb2.KeysRequest(limit=10_001), "limit: must be at most 10,000, got 10,001"),
        (kv_pb2.PutRequest(key=b"x", ttl=Duration(seconds=-1)), "ttl: must be at least 0.001 s, got -1 s"),
        (
            kv_pb2.PutRequest(key=b"x", ttl=Duration(seconds=1, nanos=-1)),
            "ttl: is no duration: 1 s and -1 ns",
        ),
        (
            kv_pb2.TransactRequest(operations=[kv_pb2.TransactOperation()]),
            "operations[0].operation: one of put, delete is required",
        ),
        (kv_pb2.MultiGetRequest(keys=[b"a", b""]), "keys[1]: must be at least 1 bytes, got none"),
        (
            node_pb2.RegisterRequest(node_id="a b", incarnation=1),
            'node_id: must be letters, digits, ".", "_", ":" and "-", got \'a b\'',
        ),
        (node_pb2.RegisterRequest(node_id="a", incarnation=1, address="x"), "address: must be \"host:port\", got 'x'"),
        (
            node_pb2.RegisterRequest(node_id="a", incarnation=1, labels={"k": "v" * 1025}),
            "labels['k']: must be at most 1,024 bytes, got 1,025",
        ),
        (
            node_pb2.RegisterRequest(node_id="a", incarnation=1, resources={"cpu": float("inf")}),
            "resources['cpu']: must be a finite number, got inf",
        ),
        (watch_pb2.WatchRequest(), "request: one of open, close, bookmarks is required"),
        (
            task_pb2.AddTaskEventsRequest(
                events=[task_pb2.TaskEvent(job_id="j", task_id="t", state=77)]  # type: ignore[arg-type]
            ),
            (
                "events[0].state: must be one of TASK_STATE_PENDING, TASK_STATE_SCHEDULED, TASK_STATE_RUNNING, "
                "TASK_STATE_FINISHED, TASK_STATE_FAILED, got 77"
            ),
        ),
        (
            task_pb2.AddTaskEventsRequest(
                events=[task_pb2.TaskEvent(job_id="j", task_id="t", time=Timestamp(seconds=1 << 60))]
            ),
            "events[0].time: is no time between the years 1 and 9999: 1152921504606846976 s and 0 ns",
        ),
    ],
)
def test_the_message_says_what_is_wanted_and_what_came(request_: Message, expected: str) -> None:
    assert rules.problem(request_) == expected


def test_a_text_of_many_byte_characters_that_just_fits_passes() -> None:
    assert rules.problem(kv_pb2.GetRequest(key=b"x", namespace="é" * 128)) is None


def test_what_is_shown_of_a_wrong_value_is_short() -> None:
    found = rules.problem(node_pb2.RegisterRequest(node_id="!" * 128, incarnation=1))
    assert found is not None
    assert len(found) < 200
