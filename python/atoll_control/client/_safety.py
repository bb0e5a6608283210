"""Which calls may be sent again when it is not known what became of them.

A server that says UNAVAILABLE has done nothing, so after that every call may. A connection that breaks leaves open what
was done, and grpc calls that UNAVAILABLE as well: after that only these are repeated. Any thread may call.
"""

from __future__ import annotations

import enum
from typing import Any, Final

from atoll_control.api.v1 import kv_pb2, task_pb2


class Repeat(enum.Enum):
    """What sending a call twice does."""

    READ = enum.auto()
    """Nothing: it changes nothing."""
    SAFE = enum.auto()
    """The same as sending it once."""
    CONDITIONAL = enum.auto()
    """Mostly nothing: what it does makes its own condition false. A revision never comes again, so a condition on one
    never holds twice; that a key is not there holds again once somebody else has deleted the key, which then is made
    again."""
    NEVER = enum.auto()
    """It may undo what others have done meanwhile, or be done twice."""


_READS: Final = frozenset(
    {
        *("/atoll.v1.AdminService/GetServer", "/atoll.v1.AdminService/Backup"),
        *("/atoll.v1.HealthService/Explain", "/atoll.v1.HealthService/GetDetector"),
        *("/atoll.v1.KvService/Get", "/atoll.v1.KvService/MultiGet", "/atoll.v1.KvService/Exists"),
        *("/atoll.v1.KvService/Keys", "/atoll.v1.KvService/Scan", "/atoll.v1.KvService/ListNamespaces"),
        "/atoll.v1.LeaseService/ListLeases",
        *("/atoll.v1.NodeService/GetNode", "/atoll.v1.NodeService/ListNodes", "/atoll.v1.NodeService/ListEndings"),
        *("/atoll.v1.TaskService/ListTasks", "/atoll.v1.TaskService/GetTask", "/atoll.v1.TaskService/ListJobs"),
        *("/atoll.v1.TaskService/SummarizeTasks", "/atoll.v1.TopicService/ListTopics"),
        "/atoll.v1.TokenService/ListTokens",
    }
)
# As their protos say. A lease that nobody has heard of ends by itself.
_SAFE: Final = frozenset(
    {
        *("/atoll.v1.HealthService/Heartbeat", "/atoll.v1.HealthService/Freeze", "/atoll.v1.HealthService/Resume"),
        *("/atoll.v1.LeaseService/GrantLease", "/atoll.v1.LeaseService/KeepLeaseAlive"),
        *("/atoll.v1.LeaseService/RevokeLease", "/atoll.v1.TaskService/EndJob"),
        *("/atoll.v1.NodeService/Register", "/atoll.v1.NodeService/Unregister", "/atoll.v1.NodeService/Drain"),
    }
)


def repeat_of(method: str, request: Any) -> Repeat:
    """What sending this request twice does."""
    if method in _READS:
        return Repeat.READ
    if method in _SAFE:
        return Repeat.SAFE
    if isinstance(request, task_pb2.AddTaskEventsRequest):
        # Events are merged, counts are added.
        return Repeat.NEVER if request.dropped else Repeat.SAFE
    return Repeat.CONDITIONAL if _is_conditional(request) else Repeat.NEVER


def _is_conditional(request: Any) -> bool:
    if isinstance(request, kv_pb2.PutRequest):
        return request.HasField("expected_revision") or not request.overwrite
    if isinstance(request, kv_pb2.DeleteRequest):
        return request.HasField("expected_revision")
    return isinstance(request, kv_pb2.TransactRequest) and _guards_itself(request)


def _guards_itself(request: kv_pb2.TransactRequest) -> bool:
    """Whether what it does makes one of its own checks fail."""
    for check in request.checks:
        is_there: bool | None = None
        for operation in request.operations:
            put, delete = operation.put, operation.delete
            if operation.HasField("put"):
                if (put.namespace, put.key) == (check.namespace, check.key):
                    is_there = True
            elif (delete.namespace, delete.key) == (check.namespace, check.key) or (
                delete.prefix and delete.namespace == check.namespace and check.key.startswith(delete.key)
            ):
                is_there = False
        # A key that is put has another revision afterwards; one that is deleted has none.
        if not check.exists and (is_there is True or (is_there is False and check.revision)):
            return True
    return False


def was_done(response: Any) -> bool:
    """Whether a conditional call did something."""
    if isinstance(response, kv_pb2.DeleteResponse):
        return response.deleted
    return bool(response.applied)
