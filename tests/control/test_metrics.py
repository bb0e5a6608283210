"""The text of metrics, who is asked for numbers, and who may read them."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import parser
from tests.control.observing import PATIENCE, parsed
from tests.control.watching import on_a_loop

from atoll import IoContext
from atoll.errors import MailboxFull
from atoll.observe import Readiness
from atoll.store import Store
from atoll_control.server import metrics
from atoll_control.server.metrics import METRICS, PREFIX, Distribution, text_of
from atoll_control.server.metrics_collector import STORE_STUCK_AFTER, MetricsCollector
from atoll_control.server.settings import ServerSettings
from atoll_control.server.tables import TABLES
from atoll_control.server.vitals import Vitals

if TYPE_CHECKING:
    from collections.abc import Callable


async def soon(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def test_every_metric_has_its_type_also_without_a_sample() -> None:
    families = {family.name: family.type for family in parser.text_string_to_metric_families(text_of([]))}
    assert len(families) == len(METRICS)
    for metric in METRICS:
        assert families[(PREFIX + metric.name).removesuffix("_total")] == metric.kind


def test_names_say_their_unit_and_counters_end_in_total() -> None:
    for metric in METRICS:
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert metric.help.endswith("."), metric.name


def test_a_histogram_is_told_with_growing_counts() -> None:
    seen = Distribution(6, 1.5, [(0.1, 1), (0.2, 0), (0.4, 3), (float("inf"), 2)])
    samples = parsed(text_of([{"store_commit_seconds": [((), seen)]}]))
    assert samples[f"{PREFIX}store_commit_seconds_bucket"] == {("0.1",): 1, ("0.2",): 1, ("0.4",): 4, ("+Inf",): 6}
    assert samples[f"{PREFIX}store_commit_seconds_sum"] == {(): 1.5}
    assert samples[f"{PREFIX}store_commit_seconds_count"] == {(): 6}


def test_labels_may_have_any_text() -> None:
    wild = 'a "b"\\c\nd'
    assert parsed(text_of([{"table_rows": [((wild,), 1)]}]))[f"{PREFIX}table_rows"] == {(wild,): 1}


# -------------------------------------------------------------------------------------------------------- collecting


def collector(readiness: Readiness | None = None) -> MetricsCollector:
    return MetricsCollector(
        IoContext.current(), readiness or Readiness(), version="1", wall_clock=time.time, interval=0.001
    )


@on_a_loop
async def test_a_module_that_does_not_answer_is_not_asked_again_and_keeps_its_last_numbers() -> None:
    collecting = collector()
    asked = itertools.count(1)
    latest = 0
    stuck = asyncio.Event()

    async def answer() -> metrics.Samples:
        nonlocal latest
        latest = next(asked)
        if latest == 3:
            await stuck.wait()
        return metrics.of_nodes({"ALIVE": latest})

    with collecting.asking({"nodes": answer}):
        await soon(lambda: latest == 3)
        await asyncio.sleep(0.05)
        assert latest == 3
        assert parsed(collecting.text())[f"{PREFIX}nodes"]["alive",] == 2
        assert parsed(collecting.text())[f"{PREFIX}numbers_age_seconds"]["nodes",] >= 0.04
        stuck.set()
        await soon(lambda: latest > 3)
    assert f"{PREFIX}nodes" not in parsed(collecting.text())


@on_a_loop
async def test_a_full_mailbox_leaves_the_last_numbers_and_is_asked_again() -> None:
    collecting = collector()
    asked = 0

    async def answer() -> metrics.Samples:
        nonlocal asked
        asked += 1
        if asked % 2 == 0:
            raise MailboxFull("full")
        return metrics.of_nodes({"ALIVE": asked})

    with collecting.asking({"nodes": answer}):
        await soon(lambda: asked > 4)
        assert parsed(collecting.text())[f"{PREFIX}nodes"]["alive",] in {3, 5, 7, 9}


class StuckStore:
    """A store of which the test says what it tells."""

    epoch = 1

    def __init__(self) -> None:
        self.real = Store.in_memory(TABLES)
        self.told: dict[str, Any] = {}

    def statistics(self) -> Any:
        told, real = self.told, self.real.statistics()

        class Told:
            def __getattr__(self, name: str) -> Any:
                return told.get(name, getattr(real, name))

        return Told()


class Clock:
    """Of a main loop whose time the test moves."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


@on_a_loop
async def test_a_store_that_has_stopped_or_does_not_get_on_is_not_ready() -> None:
    readiness, clock, store = Readiness(), Clock(), StuckStore()
    anything: Any = clock
    collecting = MetricsCollector(anything, readiness, version="1", wall_clock=time.time)

    def condition() -> tuple[bool, str]:
        (told,) = readiness.conditions()
        return told.ok, told.reason

    stored: Any = store
    with collecting.watching_store(stored, 1):
        assert condition() == (True, "memory")
        store.told = {"pending_batches": 3}
        await asyncio.sleep(0)
        clock.time += STORE_STUCK_AFTER + 1
        await soon(lambda: not condition()[0])
        assert condition() == (False, "3 batches wait, and none was committed for 11 s: look at the disk")
        store.told = {"pending_batches": 3, "batches": 1}
        await soon(lambda: condition()[0])
        store.told = {"stopped": "the lease is lost"}
        await soon(lambda: condition() == (False, "the lease is lost"))
    assert condition() == (False, "closed")
    store.real.close_blocking()


@on_a_loop
async def test_what_there_is_is_published_at_once_and_again_and_again() -> None:
    collecting = collector()
    published: list[str] = []

    def publish(text: str) -> None:
        published.append(text)
        if len(published) == 2:
            raise ValueError("too long")

    def is_leader() -> float:
        return parsed(published[-1])[f"{PREFIX}is_leader"][()]

    with collecting.publishing(publish):
        assert f"{PREFIX}published_timestamp_seconds" in published[0]
        await soon(lambda: len(published) > 3)
        with collecting.leading():
            assert is_leader() == 1
        assert is_leader() == 0
    count = len(published)
    # Nothing is left that would go on.
    await soon(lambda: not collecting._tasks)
    assert len(published) == count


# ------------------------------------------------------------------------------------------------------------ vitals


@on_a_loop
async def test_a_server_is_ready_from_the_begin_of_its_term_to_its_end_and_never_as_a_standby() -> None:
    async with Vitals(ServerSettings()) as vitals:

        def leader() -> tuple[bool, str]:
            return next(told[1:] for told in vitals.readiness.conditions() if told.name == "leader")

        def is_leader() -> float:
            return parsed(vitals.metrics.text())[f"{PREFIX}is_leader"][()]

        assert leader() == (False, "the server is starting")
        vitals.stands_by("")
        assert leader() == (False, "standby, and it is not known who leads")
        vitals.stands_by("10.0.0.1:50051")
        assert (leader(), is_leader()) == ((False, "standby of 10.0.0.1:50051"), 0)
        assert {told.reason for told in vitals.readiness.conditions()} == {"standby of 10.0.0.1:50051"}
        with vitals.serving({}, "10.0.0.2:50051"):
            assert (leader(), is_leader()) == ((True, ""), 1)
        assert (leader(), is_leader()) == ((False, "its term has ended"), 0)
        vitals.stopping()
        assert leader() == (False, "the server stops")
