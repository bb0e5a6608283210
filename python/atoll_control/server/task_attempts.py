"""Attempts: what events say of one try of one task, merged so that their order and repetition do not matter.

Each thing that is known comes with the time of the event that said it, and the latest wins; of two with the same time,
the greater value. So merging is taking a maximum, of each state's time and of each fact by itself.

What an attempt holds is in tuples of texts and numbers: the garbage collector has one object to look at per attempt.
Only the loop of `TaskManager` enters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from atoll_control.api.v1 import task_pb2

if TYPE_CHECKING:
    from atoll_control.server.task_table import JobTasks

# The facts that are texts, by their place in `Attempt.facts`.
NAME, KIND, NODE_ID, WORKER_ID, PARENT_TASK_ID, ERROR_TYPE, ERROR_MESSAGE = range(7)
# The places of the other facts among the stamps.
_LABELS, _RESOURCES = 7, 8
# Those of which many attempts say the same, and which one object is enough for.
_SHARED: Final = frozenset({NAME, KIND, NODE_ID, WORKER_ID, ERROR_TYPE})

UNSPECIFIED: Final = task_pb2.TASK_STATE_UNSPECIFIED
FINISHED: Final = task_pb2.TASK_STATE_FINISHED
FAILED: Final = task_pb2.TASK_STATE_FAILED
STATES: Final = tuple(task_pb2.TaskState.values())
_FROM_THE_END: Final = STATES[:0:-1]
# "RUNNING" for TASK_STATE_RUNNING, by number.
STATE_NAMES: Final = tuple(name.removeprefix("TASK_STATE_") for name in task_pb2.TaskState.keys())  # noqa: SIM118

# How attempts end, in the order in which they make room for others.
FINISHED_KIND, UNFINISHED_KIND, FAILED_KIND = range(3)

# How an attempt ends that had not ended when its job did.
JOB_ENDED: Final = "JOB_ENDED"
JOB_ENDED_MESSAGE: Final = "the job ended, and nothing was heard of an end of this attempt"

# What an attempt costs beside the texts that it holds, measured with five states of its own and all indexes.
ATTEMPT_OVERHEAD_BYTES: Final = 1024
# Texts that are shared before the memory of them begins anew.
_MAX_SHARED_TEXTS: Final = 10_000

_SECOND: Final = 1_000_000_000
# Before the year 1, where times begin.
_NEVER: Final = -(10**20)
_NO_TIMES: Final = (None,) * len(STATES)
_NO_FACTS: Final = ("",) * 7
_NO_STAMPS: Final = (_NEVER,) * 9
# What a pair of texts costs beside the texts, or of a text and a number: the tuple, its slot in another, the number.
_PAIR_OVERHEAD_BYTES: Final = 88

State: TypeAlias = "task_pb2.TaskState.ValueType"
Labels: TypeAlias = tuple[tuple[str, str], ...]
Resources: TypeAlias = tuple[tuple[str, float], ...]
Fact = TypeVar("Fact", str, Labels, Resources)


class SharedTexts:
    """Gives the same object for the same text, so that a name that 100,000 attempts have takes the room of one."""

    def __init__(self) -> None:
        """Knows none."""
        self._texts: dict[str, str] = {}

    def share(self, text: str) -> str:
        """The text, as it was first seen."""
        if len(self._texts) >= _MAX_SHARED_TEXTS:
            self._texts.clear()
        return self._texts.setdefault(text, text)


class Attempt:
    """One try of one task.

    Attributes:
        number: rises with each attempt that the table first hears of.
        job: that it belongs to.
        times: when it came into each state, in nanoseconds since 1970, by the number of the state.
        facts: texts, by the constants above; empty where nothing is known.
        labels: sorted, as are the resources.
        kind: the queue that it waits in to make room, one of the constants above; the table's to change.
        own_state: what the events say; see `state`.
        size: what it takes of the table's bound, in bytes.
    """

    __slots__ = (
        "_stamps",
        "attempt",
        "facts",
        "job",
        "kind",
        "labels",
        "number",
        "own_state",
        "resources",
        "size",
        "task_id",
        "times",
    )

    def __init__(self, number: int, job: JobTasks, task_id: str, attempt: int) -> None:
        """Nothing is known yet."""
        self.number = number
        self.job = job
        self.task_id = task_id
        self.attempt = attempt
        self.times: tuple[int | None, ...] = _NO_TIMES
        self.facts: tuple[str, ...] = _NO_FACTS
        self.labels: Labels = ()
        self.resources: Resources = ()
        self.own_state: State = UNSPECIFIED
        self.kind = UNFINISHED_KIND
        self.size = ATTEMPT_OVERHEAD_BYTES + task_id.__sizeof__()
        # The time of the event that said each fact.
        self._stamps: tuple[int, ...] = _NO_STAMPS

    @property
    def state(self) -> State:
        """The furthest state that is known; FAILED when the job has ended and this has not."""
        return FAILED if self.job.ended_at is not None and self.own_state < FINISHED else self.own_state

    @property
    def error_type(self) -> str:
        """What made it fail."""
        return self.facts[ERROR_TYPE] or (
            JOB_ENDED if self.own_state < FINISHED and self.job.ended_at is not None else ""
        )

    def label(self, key: str) -> str:
        """The value of a label; empty when it has none."""
        return next((value for known, value in self.labels if known == key), "")

    def merge(self, event: task_pb2.TaskEvent, texts: SharedTexts) -> None:
        """Takes in what an event says."""
        time = _NEVER
        if event.HasField("time"):
            said_at = event.time
            time = said_at.seconds * _SECOND + said_at.nanos
        if state := event.state:
            known = self.times[state]
            if known is None or known < time:
                self.times = (*self.times[:state], time, *self.times[state + 1 :])
                self.own_state = _furthest(self.times)
        # Named one by one: this is where the time goes.
        said = (
            event.name,
            event.kind,
            event.node_id,
            event.worker_id,
            event.parent_task_id,
            event.error_type,
            event.error_message,
        )
        if said != _NO_FACTS:
            self._learn_texts(said, time, texts)
        if labels := event.labels:
            before = _size_of(self.labels)
            self.labels = self._learn(_LABELS, self.labels, tuple(sorted(labels.items())), time)
            self.size += _size_of(self.labels) - before
        if resources := event.resources:
            before = _size_of(self.resources)
            # Adding nothing makes the two zeros one.
            amounts = tuple(sorted((name, amount + 0.0) for name, amount in resources.items()))
            self.resources = self._learn(_RESOURCES, self.resources, amounts, time)
            self.size += _size_of(self.resources) - before

    def _learn_texts(self, said: tuple[str, ...], time: int, texts: SharedTexts) -> None:
        facts = list(self.facts)
        for place, text in enumerate(said):
            if text:
                known = facts[place]
                learnt = self._learn(place, known, text, time)
                if learnt != known:
                    facts[place] = texts.share(learnt) if place in _SHARED else learnt
                    self.size += learnt.__sizeof__() - (known.__sizeof__() if known else 0)
        self.facts = tuple(facts)

    def _learn(self, place: int, known: Fact, said: Fact, time: int) -> Fact:
        """What holds after an event of this time has said something."""
        stamp = self._stamps[place]
        if time < stamp or (time == stamp and said <= known):
            return known
        if time != stamp:
            self._stamps = (*self._stamps[:place], time, *self._stamps[place + 1 :])
        return said

    def message(self) -> task_pb2.TaskAttempt:
        """What clients are shown."""
        name, kind, node_id, worker_id, parent_task_id, _, error_message = self.facts
        message = task_pb2.TaskAttempt(
            job_id=self.job.job_id,
            task_id=self.task_id,
            attempt=self.attempt,
            state=self.state,
            name=name,
            kind=kind,
            node_id=node_id,
            worker_id=worker_id,
            parent_task_id=parent_task_id,
            error_type=self.error_type,
            error_message=error_message,
            labels=dict(self.labels),
            resources=dict(self.resources),
        )
        times = [(time, state) for state, time in zip(STATES, self.times, strict=True) if time is not None]
        ended_at = self.job.ended_at
        if ended_at is not None and self.own_state < FINISHED:
            times.append((ended_at, FAILED))
            message.error_message = message.error_message or JOB_ENDED_MESSAGE
        times.sort()
        for time, state in times:
            seconds, nanos = divmod(time, _SECOND)
            message.states.add(state=state, time=Timestamp(seconds=seconds, nanos=nanos))
        return message


def kind_of(state: State) -> int:
    """How an attempt in this state ended."""
    if state == FAILED:
        return FAILED_KIND
    return FINISHED_KIND if state == FINISHED else UNFINISHED_KIND


def _furthest(times: tuple[int | None, ...]) -> State:
    """The state of an attempt with these times: clocks of nodes differ, but no attempt goes back."""
    failed, finished = times[FAILED], times[FINISHED]
    if failed is not None and finished is not None:
        return FAILED if failed >= finished else FINISHED
    for state in _FROM_THE_END:
        if times[state] is not None:
            return state
    return UNSPECIFIED


def _size_of(pairs: Labels | Resources) -> int:
    """How much memory pairs take, in bytes."""
    return sum(_PAIR_OVERHEAD_BYTES + key.__sizeof__() + value.__sizeof__() for key, value in pairs)
