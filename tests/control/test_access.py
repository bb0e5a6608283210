"""Who may call which method, as the protos declare it: all methods, by hand, so that a slip in a proto is seen."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from tests.control.malformed import OWN_FILES

from atoll_control.api.v1 import node_pb2, rules_pb2, task_pb2
from atoll_control.server import access
from atoll_control.server.access import ADMIN, NODE, READ, WRITE, Rule, is_allowed, other_node, values_at

READERS = """
AdminService.GetServer
HealthService.Explain HealthService.GetDetector
KvService.Get KvService.MultiGet KvService.Exists KvService.Keys KvService.Scan KvService.ListNamespaces
LeaseService.ListLeases
NodeService.GetNode NodeService.ListNodes NodeService.ListEndings
TaskService.ListTasks TaskService.GetTask TaskService.SummarizeTasks TaskService.ListJobs
TopicService.ListTopics
WatchService.Watch
"""
WRITERS = """
HealthService.Heartbeat
KvService.Put KvService.Delete KvService.Transact
LeaseService.GrantLease LeaseService.KeepLeaseAlive LeaseService.RevokeLease
NodeService.Register NodeService.Unregister NodeService.Drain NodeService.SetConditions
TaskService.AddTaskEvents TaskService.EndJob
TopicService.Publish
"""
OPERATORS = """
AdminService.Backup
HealthService.Freeze HealthService.Resume HealthService.DeclareDead
TokenService.CreateToken TokenService.ListTokens TokenService.RevokeToken
FaultService.SetSlow FaultService.GetStats
"""
# What a node may do, and in which field its own id must be.
OF_NODES = {
    "AdminService.GetServer": "",
    "HealthService.Heartbeat": "node_id",
    "HealthService.Explain": "node_id",
    "NodeService.Register": "node_id",
    "NodeService.Unregister": "node_id",
    "NodeService.SetConditions": "node_id",
    "NodeService.GetNode": "node_id",
    "TaskService.AddTaskEvents": "events.node_id",
}
# Changes, or reading by operators, that leave no line.
NOT_AUDITED = {
    "HealthService.Heartbeat",
    "LeaseService.KeepLeaseAlive",
    "TaskService.AddTaskEvents",
    "TokenService.ListTokens",
    "FaultService.GetStats",
}

RULES = {rule.name: rule for rule in access.rules_of().values()}


def named(role: int) -> set[str]:
    return {name for name, rule in RULES.items() if rule.role == role}


def test_every_method_declares_who_may_call_it() -> None:
    assert named(READ) == set(READERS.split())
    assert named(WRITE) == set(WRITERS.split())
    assert named(ADMIN) == set(OPERATORS.split())
    assert named(0) == set()


def test_nodes_may_call_what_a_node_needs_and_speak_for_themselves_there() -> None:
    assert {name: ".".join(rule.own_node) for name, rule in RULES.items() if rule.nodes} == OF_NODES


def test_every_change_is_audited_but_for_what_comes_all_the_time() -> None:
    audited = {name for name, rule in RULES.items() if rule.is_audited}
    assert audited == (named(WRITE) | named(ADMIN)) - NOT_AUDITED


@pytest.mark.parametrize("name", sorted(RULES))
def test_the_fields_that_a_rule_names_are_there_and_are_no_values(name: str) -> None:
    rule = RULES[name]
    method = next(
        method
        for file in access.FILES
        for service in file.services_by_name.values()
        for method in service.methods
        if f"{service.name}.{method.name}" == name
    )
    for path in (*rule.targets, *filter(None, [rule.own_node])):
        message: Any = method.input_type
        *way, last = path
        for step in way:
            message = message.fields_by_name[step].message_type
            assert message is not None
        field = message.fields_by_name[last]
        assert field.type != FieldDescriptor.TYPE_MESSAGE
        assert last not in {"value", "payload", "secret"}


def test_the_rules_are_those_of_all_services_that_have_a_proto() -> None:
    assert set(access.FILES) >= OWN_FILES


def test_each_role_may_do_what_those_below_may_and_a_node_only_what_is_for_nodes() -> None:
    read, write, admin = (Rule("/s/m", "s.m", role) for role in (READ, WRITE, ADMIN))
    assert [is_allowed(read, role) for role in (READ, WRITE, ADMIN, NODE)] == [True, True, True, False]
    assert [is_allowed(write, role) for role in (READ, WRITE, ADMIN, NODE)] == [False, True, True, False]
    assert [is_allowed(admin, role) for role in (READ, WRITE, ADMIN, NODE)] == [False, False, True, False]
    assert is_allowed(Rule("/s/m", "s.m", WRITE, nodes=True), NODE)


@pytest.mark.parametrize("role", [0, READ, WRITE, ADMIN, NODE, 17])
def test_what_declares_nothing_is_allowed_to_nobody(role: int) -> None:
    assert not is_allowed(Rule("/s/m", "s.m", 0, nodes=True), role)


def test_a_role_that_is_not_known_allows_nothing() -> None:
    assert not any(is_allowed(rule, role) for rule in RULES.values() for role in (0, 5, 17))
    assert rules_pb2.Role.values() == [0, READ, WRITE, ADMIN, NODE]


def test_every_one_of_several_events_must_be_of_the_own_node() -> None:
    rule = RULES["TaskService.AddTaskEvents"]
    own, none, other = (task_pb2.TaskEvent(node_id=node_id) for node_id in ("a", "", "b"))
    assert other_node(rule, task_pb2.AddTaskEventsRequest(events=[own, own]), "a") is None
    assert other_node(rule, task_pb2.AddTaskEventsRequest(events=[own, other]), "a") == "b"
    assert other_node(rule, task_pb2.AddTaskEventsRequest(events=[none]), "a") == ""
    assert other_node(RULES["NodeService.Register"], node_pb2.RegisterRequest(node_id="ab"), "a") == "ab"


def test_a_message_on_the_way_that_is_not_there_has_no_values() -> None:
    assert list(values_at(node_pb2.RegisterRequest(), ("host", "name"))) == []
    assert list(values_at(node_pb2.RegisterRequest(), ("node_id",))) == [""]
