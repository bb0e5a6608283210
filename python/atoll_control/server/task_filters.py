"""Filters of `ListTasks`: from what a request says to functions of an attempt, or to what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from atoll_control.api.v1 import task_pb2
from atoll_control.server.task_attempts import KIND, NAME, NODE_ID, PARENT_TASK_ID, STATE_NAMES, WORKER_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from atoll_control.server.task_attempts import Attempt

Predicate: TypeAlias = "Callable[[Attempt], bool]"

LABEL_PREFIX: Final = "label."
# Fields that are facts, by their place.
_FACTS: Final = {
    "name": NAME,
    "kind": KIND,
    "node_id": NODE_ID,
    "worker_id": WORKER_ID,
    "parent_task_id": PARENT_TASK_ID,
}
FIELDS: Final = ("job_id", "task_id", *_FACTS, "state", "error_type")
_STATE_NUMBERS: Final = {
    **{name: number for number, name in enumerate(STATE_NAMES)},
    **dict(task_pb2.TaskState.items()),
}


class FilterError(ValueError):
    """A filter can't be understood; the message begins with the path of the field and is for the caller."""


@dataclass(frozen=True, slots=True)
class Filters:
    """All that must hold of an attempt.

    Attributes:
        predicates: what is to be asked of each.
        job_id: the only job that can match, if one is asked for.
        task_id: the only task that can match, if one is asked for.
    """

    predicates: list[Predicate] = field(default_factory=list)
    job_id: str | None = None
    task_id: str | None = None

    def match(self, attempt: Attempt) -> bool:
        """Whether they all hold."""
        return all(predicate(attempt) for predicate in self.predicates)


def filters_of(request: Iterable[task_pb2.TaskFilter]) -> Filters:
    """Prepares the filters of a request that keeps the rules of its proto.

    Raises:
        FilterError: a field or a value is not known.
    """
    predicates: list[Predicate] = []
    only: dict[str, str] = {}
    for index, wanted in enumerate(request):
        equal = wanted.operator == task_pb2.FILTER_OPERATOR_EQUALS
        predicates.append(_predicate(wanted, f"filters[{index}]", equal=equal))
        if equal and wanted.field in {"job_id", "task_id"}:
            only[wanted.field] = wanted.value
    return Filters(predicates, only.get("job_id"), only.get("task_id"))


def _predicate(wanted: task_pb2.TaskFilter, path: str, *, equal: bool) -> Predicate:
    name, value = wanted.field, wanted.value
    if (place := _FACTS.get(name)) is not None:
        return lambda attempt: (attempt.facts[place] == value) is equal
    if name == "job_id":
        return lambda attempt: (attempt.job.job_id == value) is equal
    if name == "task_id":
        return lambda attempt: (attempt.task_id == value) is equal
    if name == "error_type":
        return lambda attempt: (attempt.error_type == value) is equal
    if name == "state":
        state = _STATE_NUMBERS.get(value)
        if state is None:
            known = ", ".join(STATE_NAMES)
            raise FilterError(f"{path}.value: must be one of {known}, as it is a state, got {value[:64]!r}")
        return lambda attempt: (attempt.state == state) is equal
    if name.startswith(LABEL_PREFIX) and (key := name.removeprefix(LABEL_PREFIX)):
        return lambda attempt: (attempt.label(key) == value) is equal
    raise FilterError(f"{path}.field: must be one of {', '.join(FIELDS)} or {LABEL_PREFIX}KEY, got {name[:64]!r}")
