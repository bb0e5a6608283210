"""Who may call a method, as its proto declares it (the option `access` of `atoll/v1/rules.proto`). Any thread.

Roles are in an order: READ < WRITE < ADMIN. NODE is beside it: such a token may call the methods that say so, and
where they name a field of the request, only with its own node id there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from atoll_control.api.demo.v1 import fault_pb2
from atoll_control.api.v1 import (
    admin_pb2,
    health_pb2,
    kv_pb2,
    node_pb2,
    rules_pb2,
    task_pb2,
    token_pb2,
    watch_pb2,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

    Path = Sequence[str]

READ: Final = rules_pb2.ROLE_READ
WRITE: Final = rules_pb2.ROLE_WRITE
ADMIN: Final = rules_pb2.ROLE_ADMIN
NODE: Final = rules_pb2.ROLE_NODE

# What every server of a cluster answers, if only by saying who leads.
PUBLIC_FILES: Final = (
    admin_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    kv_pb2.DESCRIPTOR,
    node_pb2.DESCRIPTOR,
    task_pb2.DESCRIPTOR,
    token_pb2.DESCRIPTOR,
    watch_pb2.DESCRIPTOR,
)
FILES: Final = (*PUBLIC_FILES, fault_pb2.DESCRIPTOR)
# Load balancers ask it, and what it tells is no secret: no token is needed.
OPEN_SERVICES: Final = ("/grpc.health.v1.Health/",)
# Which methods there are is in our protos for all to read; asking the server takes a token of any role but NODE.
REFLECTION_SERVICES: Final = ("/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/")


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for one method.

    Attributes:
        path: "/atoll.v1.KvService/Put".
        name: "KvService.Put".
        role: READ, WRITE or ADMIN; 0 when the proto says nothing, and then nobody may call it.
        nodes: tokens of the role NODE may call it, too.
        own_node: the path to the fields that must be the token's node id; empty for none.
        targets: the paths to the fields that tell what is changed.
        is_audited: its calls are in the audit.
        streams_requests: it has a stream of requests.
    """

    path: str
    name: str
    role: int
    nodes: bool = False
    own_node: Path = ()
    targets: tuple[Path, ...] = ()
    is_audited: bool = False
    streams_requests: bool = False


def role_name(role: int) -> str:
    """For messages: READ is "read"."""
    return rules_pb2.Role.DESCRIPTOR.values_by_number[role].name.removeprefix("ROLE_").lower()


def rule_of(method: MethodDescriptor) -> Rule:
    """What the proto says of a method."""
    access: rules_pb2.Access = method.GetOptions().Extensions[rules_pb2.access]
    service = method.containing_service
    return Rule(
        path=f"/{service.full_name}/{method.name}",
        name=f"{service.name}.{method.name}",
        role=access.role if access.role in {READ, WRITE, ADMIN} else 0,
        nodes=access.nodes,
        own_node=tuple(access.own_node.split(".")) if access.own_node else (),
        targets=tuple(tuple(path.split(".")) for path in access.target.split(",") if path),
        is_audited=access.role in {WRITE, ADMIN} and not access.not_audited,
        streams_requests=method.client_streaming,
    )


def rules_of(files: Iterable[FileDescriptor] = FILES) -> Mapping[str, Rule]:
    """By the path of the method."""
    rules = (
        rule_of(method) for file in files for service in file.services_by_name.values() for method in service.methods
    )
    return {rule.path: rule for rule in rules}


def methods_of(servicer: object) -> Iterator[MethodDescriptor]:
    """The methods of the services whose generated classes it derives from."""
    names = {base.__name__ for base in type(servicer).__mro__}
    for file in FILES:
        for service in file.services_by_name.values():
            if f"{service.name}Servicer" in names:
                yield from service.methods


def values_at(message: Any, path: Path) -> Iterator[Any]:  # noqa: ANN401 - any message
    """The values of a field, in each of the messages on the way to it.

    A message on the way that is not there has none; the field itself has its zero value then.
    """
    name, *rest = path
    if not rest:
        yield getattr(message, name)
        return
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        for inner in getattr(message, name):
            yield from values_at(inner, rest)
    elif message.HasField(name):
        yield from values_at(getattr(message, name), rest)


def is_allowed(rule: Rule, role: int) -> bool:
    """Whether a token of this role may call the method, whatever the request says."""
    if role == NODE:
        return rule.role != 0 and rule.nodes
    return 0 < rule.role <= role <= ADMIN


def other_node(rule: Rule, request: Any, node_id: str) -> str | None:  # noqa: ANN401 - any message
    """A node id of the request that is not this one; None when there is none."""
    for found in values_at(request, rule.own_node):
        if found != node_id:
            return str(found)
    return None
