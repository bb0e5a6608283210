"""The table of attempts: what is kept, in which order it is listed, and what goes when there is no more room.

Every attempt has a number that rises with each one that is new here: listings go by it, and a place in a listing is a
number, which stays a place whatever comes and goes.

What goes first: attempts that finished, the one that ended first before others; then those that have not ended, the
oldest first; failures last. But finished attempts, and those that have not ended, each keep a small share of the room
(`reserved_share`): a table full of old failures would otherwise forget at once whatever is running now. The same rule
holds within a job, for the bound of each job. What goes is counted at its job.

Only the loop of `TaskManager` enters.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final

from atoll_control.server.task_attempts import (
    FAILED_KIND,
    FINISHED_KIND,
    UNFINISHED_KIND,
    Attempt,
    SharedTexts,
    kind_of,
)

if TYPE_CHECKING:
    from atoll_control.api.v1 import task_pb2

# Counters are uint64 in the protos, and senders may send any: they stop at the end.
MAX_COUNT: Final = (1 << 64) - 1
# Numbers of one block of an index: 2,048.
_BLOCK_BITS: Final = 11
# How many attempts an index hands out at a time, unless it has fewer; a block more at most.
_SOME: Final = 512
# The largest event takes 42 KiB on the wire, and its pairs cost some more in memory.
_MIN_BYTES: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """How much of tasks is kept, and how much one call may look at.

    Attributes:
        max_attempts: attempts in all.
        max_attempts_per_job: attempts of one job.
        max_bytes: what all attempts may take in memory, with an estimate of each one's overhead.
        max_jobs: jobs, those that have no attempts left included; when one more comes, the job goes that ended first,
            or the one that has been silent for longest if none has ended.
        reserved_share: which part of the attempts may be finished ones, and which part such as have not ended, before
            they give way to failures.
        max_looked_at: attempts that one call of ListTasks looks at; the next page goes on from there.
    """

    max_attempts: int = 100_000
    max_attempts_per_job: int = 50_000
    max_bytes: int = 256 << 20
    max_jobs: int = 10_000
    reserved_share: float = 0.1
    max_looked_at: int = 20_000

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.name != "reserved_share" and value < 1:
                message = f"{setting.name}: must be at least 1, got {value}"
                raise ValueError(message)
        if self.max_bytes < _MIN_BYTES:
            message = (
                f"max_bytes: must be at least {_MIN_BYTES:,}, which any one attempt fits in, got {self.max_bytes:,}"
            )
            raise ValueError(message)
        if not 0 <= self.reserved_share <= 1 / 3:
            message = f"reserved_share: must be from 0 to 1/3, as three kinds share the room, got {self.reserved_share}"
            raise ValueError(message)


class NewestFirst:
    """Attempts by their numbers, in blocks, so that a listing goes on from any number; removing one costs nothing."""

    def __init__(self) -> None:
        """Has none."""
        # Rising, as numbers only ever rise.
        self._blocks: dict[int, dict[int, Attempt]] = {}

    def add(self, attempt: Attempt) -> None:
        """Adds one with the highest number so far."""
        block = self._blocks.get(attempt.number >> _BLOCK_BITS)
        if block is None:
            block = self._blocks[attempt.number >> _BLOCK_BITS] = {}
        block[attempt.number] = attempt

    def remove(self, attempt: Attempt) -> None:
        """Removes one that is there."""
        block = self._blocks[attempt.number >> _BLOCK_BITS]
        del block[attempt.number]
        if not block:
            del self._blocks[attempt.number >> _BLOCK_BITS]

    def before(self, number: int) -> list[Attempt]:
        """Some attempts with lower numbers, the highest first and none left out between; empty when there is none."""
        identifiers = list(self._blocks)
        index = bisect_right(identifiers, number >> _BLOCK_BITS)
        found: list[Attempt] = []
        while index and len(found) < _SOME:
            index -= 1
            block = self._blocks[identifiers[index]]
            found += [block[known] for known in reversed(block) if known < number]
        return found


class EvictionQueues:
    """Attempts by how they ended (`Attempt.kind`), and in the order in which they did: who goes first."""

    __slots__ = ("_queues",)

    def __init__(self) -> None:
        """Has none."""
        # Ordered dictionaries give their first entry in constant time however many have gone before; plain ones do not.
        self._queues: tuple[OrderedDict[int, Attempt], ...] = (OrderedDict(), OrderedDict(), OrderedDict())

    def __len__(self) -> int:
        """How many there are."""
        finished, unfinished, failed = self._queues
        return len(finished) + len(unfinished) + len(failed)

    def add(self, attempt: Attempt) -> None:
        """Puts one behind the others of its kind."""
        self._queues[attempt.kind][attempt.number] = attempt

    def remove(self, attempt: Attempt) -> None:
        """Removes one whose kind is still that with which it was added."""
        del self._queues[attempt.kind][attempt.number]

    def first(self, reserved_share: float) -> Attempt:
        """Who goes first; there must be one."""
        reserved = reserved_share * len(self)
        for kind in (FINISHED_KIND, UNFINISHED_KIND):
            if len(self._queues[kind]) > reserved:
                return next(iter(self._queues[kind].values()))
        # Where both are within their shares, a third at most, there are failures.
        return next(iter(self._queues[FAILED_KIND].values()))

    def first_unfinished(self) -> Attempt | None:
        """The oldest that has not ended."""
        return next(iter(self._queues[UNFINISHED_KIND].values()), None)

    def all(self) -> list[Attempt]:
        """All of them."""
        return [attempt for queue in self._queues for attempt in queue.values()]


@dataclass(slots=True, eq=False)
class JobTasks:
    """A job, its attempts and what was dropped.

    Attributes:
        ended_at: when it was said to have ended, in nanoseconds since 1970.
    """

    job_id: str
    ended_at: int | None = None
    dropped_here: int = 0
    dropped_by_senders: int = 0
    newest_first: NewestFirst = field(default_factory=NewestFirst)
    queues: EvictionQueues = field(default_factory=EvictionQueues)

    @property
    def dropped(self) -> int:
        """Here and at the senders."""
        return min(MAX_COUNT, self.dropped_here + self.dropped_by_senders)


@dataclass(slots=True)
class Forgotten:
    """What jobs that had to go have left behind."""

    jobs: int = 0
    dropped_here: int = 0
    dropped_by_senders: int = 0


class TaskTable:
    """All attempts of all jobs, within the bounds. See this file's first lines for its rules."""

    def __init__(self, settings: TaskSettings) -> None:
        """Is empty."""
        self._settings = settings
        self._texts = SharedTexts()
        # By task, and where a task has several attempts, by job and number of the attempt.
        self._tasks: dict[str, Attempt | dict[tuple[str, int], Attempt]] = {}
        self._queues = EvictionQueues()
        # In the order in which they ended, and in the order in which something was last heard of them.
        self._ended_jobs: OrderedDict[str, JobTasks] = OrderedDict()
        self._running_jobs: OrderedDict[str, JobTasks] = OrderedDict()
        # Of all jobs that there ever were.
        self.dropped_here = 0
        self.dropped_by_senders = 0
        self.newest_first = NewestFirst()
        self.next_number = 0
        self.bytes = 0
        self.forgotten = Forgotten()

    def __len__(self) -> int:
        """How many attempts there are."""
        return len(self._queues)

    @property
    def jobs(self) -> int:
        """How many jobs are known."""
        return len(self._running_jobs) + len(self._ended_jobs)

    @property
    def dropped(self) -> int:
        """Attempts and events that were dropped, of all jobs that there ever were."""
        return min(MAX_COUNT, self.dropped_here + self.dropped_by_senders)

    # -- reading -------------------------------------------------------------------------------------------------------

    def attempts_of(self, task_id: str) -> list[Attempt]:
        """The attempts of a task, by job and then the first first."""
        found = self._tasks.get(task_id)
        if found is None:
            return []
        if isinstance(found, Attempt):
            return [found]
        return [found[key] for key in sorted(found)]

    def job(self, job_id: str) -> JobTasks | None:
        """A job that is known."""
        return self._running_jobs.get(job_id) or self._ended_jobs.get(job_id)

    def jobs_after(self, job_id: str) -> list[JobTasks]:
        """The jobs whose ids sort after one, in the order of their ids."""
        jobs = [
            job for known in (self._running_jobs, self._ended_jobs) for job in known.values() if job.job_id > job_id
        ]
        return sorted(jobs, key=lambda job: job.job_id)

    # -- changing ------------------------------------------------------------------------------------------------------

    def add(self, event: task_pb2.TaskEvent) -> int:
        """Merges an event into its attempt; how many attempts had to go."""
        before = self.dropped_here
        job = self._obtain_job(event.job_id)
        settings = self._settings
        attempt = self._find(job, event.task_id, event.attempt)
        if attempt is None:
            self._add_attempt(job, event)
            if len(job.queues) > settings.max_attempts_per_job:
                self._drop(job.queues.first(settings.reserved_share))
            if len(self._queues) > settings.max_attempts:
                self._drop(self._queues.first(settings.reserved_share))
        else:
            size = attempt.size
            attempt.merge(event, self._texts)
            self.bytes += attempt.size - size
            self._put_in_queue(attempt)
        while self.bytes > settings.max_bytes:
            self._drop(self._queues.first(settings.reserved_share))
        return self.dropped_here - before

    def add_dropped(self, job_id: str, count: int) -> int:
        """Counts what a sender had to drop; how many attempts had to go for a job that is new."""
        before = self.dropped_here
        job = self._obtain_job(job_id)
        job.dropped_by_senders = min(MAX_COUNT, job.dropped_by_senders + count)
        self.dropped_by_senders = min(MAX_COUNT, self.dropped_by_senders + count)
        return self.dropped_here - before

    def end_job(self, job_id: str, now: int) -> JobTasks:
        """Says that a job ended at a time in nanoseconds since 1970; `fail_unfinished()` does the rest.

        A job that was not known is remembered as well: events of it may be on their way.
        """
        job = self._obtain_job(job_id)
        if job.ended_at is None:
            job.ended_at = now
            del self._running_jobs[job_id]
            self._ended_jobs[job_id] = job
        return job

    def fail_unfinished(self, job: JobTasks, limit: int) -> int:
        """Moves attempts of a job that has ended to those that failed, at most `limit`; how many it were."""
        for count in range(limit):
            attempt = job.queues.first_unfinished()
            if attempt is None:
                return count
            self._put_in_queue(attempt)
        return limit

    def _put_in_queue(self, attempt: Attempt) -> None:
        kind = kind_of(attempt.state)
        if kind != attempt.kind:
            queues = attempt.job.queues
            self._queues.remove(attempt)
            queues.remove(attempt)
            attempt.kind = kind
            self._queues.add(attempt)
            queues.add(attempt)

    def _find(self, job: JobTasks, task_id: str, number: int) -> Attempt | None:
        found = self._tasks.get(task_id)
        if isinstance(found, dict):
            return found.get((job.job_id, number))
        return found if found is not None and found.attempt == number and found.job is job else None

    def _add_attempt(self, job: JobTasks, event: task_pb2.TaskEvent) -> None:
        attempt = Attempt(self.next_number, job, event.task_id, event.attempt)
        self.next_number += 1
        attempt.merge(event, self._texts)
        self.bytes += attempt.size
        others = self._tasks.get(attempt.task_id)
        if others is None:
            self._tasks[attempt.task_id] = attempt
        else:
            if isinstance(others, Attempt):
                others = self._tasks[attempt.task_id] = {(others.job.job_id, others.attempt): others}
            others[job.job_id, attempt.attempt] = attempt
        self.newest_first.add(attempt)
        job.newest_first.add(attempt)
        attempt.kind = kind_of(attempt.state)
        self._queues.add(attempt)
        job.queues.add(attempt)

    def _drop(self, attempt: Attempt) -> None:
        job = attempt.job
        same_task = self._tasks[attempt.task_id]
        if isinstance(same_task, dict):
            del same_task[job.job_id, attempt.attempt]
        if not isinstance(same_task, dict) or not same_task:
            del self._tasks[attempt.task_id]
        self.newest_first.remove(attempt)
        job.newest_first.remove(attempt)
        self._queues.remove(attempt)
        job.queues.remove(attempt)
        self.bytes -= attempt.size
        job.dropped_here += 1
        self.dropped_here += 1

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def _obtain_job(self, job_id: str) -> JobTasks:
        job = self._running_jobs.get(job_id)
        if job is not None:
            self._running_jobs.move_to_end(job_id)
            return job
        if (job := self._ended_jobs.get(job_id)) is not None:
            return job
        if self.jobs >= self._settings.max_jobs:
            jobs = self._ended_jobs or self._running_jobs
            self._forget(jobs.pop(next(iter(jobs))))
        job = self._running_jobs[job_id] = JobTasks(job_id)
        return job

    def _forget(self, job: JobTasks) -> None:
        for attempt in job.queues.all():
            self._drop(attempt)
        forgotten = self.forgotten
        forgotten.jobs += 1
        forgotten.dropped_here = min(MAX_COUNT, forgotten.dropped_here + job.dropped_here)
        forgotten.dropped_by_senders = min(MAX_COUNT, forgotten.dropped_by_senders + job.dropped_by_senders)
