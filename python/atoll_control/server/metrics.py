"""What the control plane's metrics are called, and how what modules tell becomes their samples.

The table is `METRICS`; `docs/operating.md` says the same for people, and a test compares the two. Durations are in
seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from atoll_control.server.kv_manager import usage_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from atoll.store import StoreStatistics
    from atoll_control.server.health_monitor import HealthStatistics
    from atoll_control.server.task_manager import TaskStatistics
    from atoll_control.server.watch_manager import WatchStatistics

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
PREFIX: Final = "atoll_control_"
NODE_STATES: Final = ("alive", "dead", "left")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: without the prefix.
        kind: as Prometheus has it.
        help: what it is, in a sentence.
        labels: the names of its labels.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram's sample is.

    Attributes:
        count: how many durations there were.
        sum: of them all.
        buckets: (upper bound, how many are at most that and more than the one before); the bounds are always the same.
    """

    count: int
    sum: float
    buckets: Sequence[tuple[float, int]]


Value: TypeAlias = "float | Distribution"
# By the name of the metric: the labels' values, and the value.
Samples: TypeAlias = "Mapping[str, Sequence[tuple[tuple[str, ...], Value]]]"

METRICS: Final = (
    Metric("build_info", "gauge", "Always 1; what runs, and on which engine of the store.", ("version", "engine")),
    Metric("start_time_seconds", "gauge", "When the server started, in seconds since 1970."),
    Metric("ready", "gauge", "Whether a condition of readiness holds, as /readyz tells them.", ("condition",)),
    Metric("is_leader", "gauge", "Whether this server is the one that serves."),
    Metric("epoch", "gauge", "The epoch of the store: it rises with each server that takes over."),
    Metric(
        "published_timestamp_seconds", "gauge", "When these numbers were handed over, in seconds since 1970."
    ),
    Metric(
        "numbers_age_seconds",
        "gauge",
        "How long before that the numbers of a module were taken on its loop.",
        ("module",),
    ),
    Metric("nodes", "gauge", "Nodes in the list.", ("state",)),
    Metric("nodes_suspect", "gauge", "Nodes that are alive and suspect."),
    Metric("node_suspicions_total", "counter", "Times that a node turned suspect."),
    Metric("node_refutations_total", "counter", "Times that a suspect was heard of again."),
    Metric("node_deaths_total", "counter", "Verdicts that a node is dead, operators' included."),
    Metric("node_probes_total", "counter", "Probes sent to suspects."),
    Metric("node_probes_failed_total", "counter", "Probes that got no answer."),
    Metric("verdicts_unrecorded", "gauge", "Suspicions and verdicts that are not recorded in the store yet."),
    Metric("brake_held", "gauge", "Whether verdicts are withheld, by the brake itself or by an operator.", ("by",)),
    Metric("detector_lag_seconds", "gauge", "By how much the last sweep of the detector was late."),
    Metric("detector_late_seconds_total", "counter", "By how much all sweeps were late: it counts against no node."),
    Metric("detector_sweeps_total", "counter", "Sweeps of the detector."),
    Metric("detector_late_sweeps_total", "counter", "Sweeps that were late."),
    Metric("detector_score", "gauge", "How little the detector trusts its own server: 0 is healthy, 7 the worst."),
    Metric("kv_keys", "gauge", "Keys of all namespaces."),
    Metric("kv_bytes", "gauge", "What they and their values take, as max_kv_bytes counts it."),
    Metric("kv_limit_bytes", "gauge", "What they may take (max_kv_bytes); puts are refused beyond it."),
    Metric("table_rows", "gauge", "Rows of a table of the store.", ("table",)),
    Metric("table_bytes", "gauge", "What the keys and values of its rows take.", ("table",)),
    Metric("store_revision", "gauge", "The revision of the last change."),
    Metric("store_oldest_revision", "gauge", "Watches can be resumed from this revision on."),
    Metric("store_log_bytes", "gauge", "What the change log takes in memory."),
    Metric("store_pending_batches", "gauge", "Batches that wait for the store's writer."),
    Metric("store_pending_bytes", "gauge", "What they take."),
    Metric("store_batches_total", "counter", "Batches that were decided."),
    Metric("store_groups_total", "counter", "Transactions in which they were made durable."),
    Metric("store_changes_total", "counter", "Rows that were put or deleted."),
    Metric("store_busy_total", "counter", "Batches that were refused because too much waited."),
    Metric("store_errors_total", "counter", "Batches that failed, but for their checks and for full owners."),
    Metric("store_commit_seconds", "histogram", "From handing a batch over until it was durable and acknowledged."),
    Metric("store_disk_seconds", "histogram", "How long a group of batches waited for the disk, or the network."),
    Metric("watch_streams", "gauge", "Open streams of watches."),
    Metric("watches", "gauge", "Open watches of all streams."),
    Metric("watches_caught_up", "gauge", "Those that have got everything there is."),
    Metric("watch_groups", "gauge", "Watches that differ: those that are the same share what they are sent."),
    Metric("watch_slow_total", "counter", "Times that a watch was too slow and had to be caught up."),
    Metric("watch_messages_total", "counter", "Messages that were serialised for watches."),
    Metric("watch_lag_revisions", "gauge", "Revisions that are durable and not yet handed on to watches."),
    Metric("topics", "gauge", "Topics with events or watchers."),
    Metric("topic_bytes", "gauge", "What the events of all topics take."),
    Metric("task_attempts", "gauge", "Attempts of tasks that are kept."),
    Metric("task_bytes", "gauge", "What they take, as it is estimated."),
    Metric("task_jobs", "gauge", "Jobs that are known."),
    Metric("tasks_dropped_total", "counter", "Attempts and events that had to go, here or at senders.", ("where",)),
)  # fmt: skip
BY_NAME: Final = {metric.name: metric for metric in METRICS}


def of_nodes(counts: Mapping[str, int]) -> Samples:
    """What `NodeManager.count_by_state` tells."""
    return {"nodes": [((state,), counts.get(state.upper(), 0)) for state in NODE_STATES]}


def of_health(told: HealthStatistics) -> Samples:
    """What `HealthMonitor.statistics` tells."""
    detector = told.detector
    late = detector.lateness
    held = {"operator" if freeze.by else "brake" for freeze in detector.brake.freezes}
    plain = _plain(
        nodes_suspect=detector.suspects,
        node_suspicions_total=detector.suspicions,
        node_refutations_total=detector.refutations,
        node_deaths_total=detector.deaths,
        node_probes_total=detector.probes,
        node_probes_failed_total=detector.probes_failed,
        verdicts_unrecorded=told.unrecorded,
        detector_lag_seconds=late.last,
        detector_late_seconds_total=late.total,
        detector_sweeps_total=late.sweeps,
        detector_late_sweeps_total=late.late_sweeps,
        detector_score=detector.local_health.score,
    )
    return {**plain, "brake_held": [((by,), by in held) for by in ("brake", "operator")]}


def of_watches(told: WatchStatistics, revision: int) -> Samples:
    """What `WatchManager.statistics` tells, and the store's revision then."""
    return _plain(
        watch_streams=told.streams,
        watches=told.watches,
        watches_caught_up=told.members,
        watch_groups=told.groups,
        watch_slow_total=told.slow,
        watch_messages_total=told.messages,
        watch_lag_revisions=max(0, revision - told.published),
        topics=told.topics,
        topic_bytes=told.topic_bytes,
    )


def of_tasks(told: TaskStatistics) -> Samples:
    """What `TaskManager.statistics` tells."""
    dropped = [(("here",), told.dropped_here), (("senders",), told.dropped_by_senders)]
    plain = _plain(task_attempts=told.attempts, task_bytes=told.bytes, task_jobs=told.jobs)
    return {**plain, "tasks_dropped_total": dropped}


def of_store(told: StoreStatistics, kv_limit: int) -> Samples:
    """What the store tells; on any thread."""
    plain = _plain(
        kv_limit_bytes=kv_limit,
        store_revision=told.revision,
        store_oldest_revision=told.oldest,
        store_log_bytes=told.log_bytes,
        store_pending_batches=told.pending_batches,
        store_pending_bytes=told.pending_bytes,
        store_batches_total=told.batches,
        store_groups_total=told.groups,
        store_changes_total=told.changes,
        store_busy_total=told.busy,
        store_errors_total=told.errors,
    )
    keys, kv_bytes = usage_of(told)
    return {
        **plain,
        **_plain(kv_keys=keys, kv_bytes=kv_bytes),
        "table_rows": [((name,), rows) for name, rows, _ in told.tables],
        "table_bytes": [((name,), size) for name, _, size in told.tables],
        "store_commit_seconds": [((), _distribution(told.commit))],
        "store_disk_seconds": [((), _distribution(told.wait))],
    }


def _plain(**values: float) -> dict[str, list[tuple[tuple[str, ...], Value]]]:
    return {name: [((), value)] for name, value in values.items()}


def _distribution(told: tuple[int, float, float, list[tuple[float, int]]]) -> Distribution:
    count, total, _, buckets = told
    return Distribution(count, total, buckets)


def text_of(many: Iterable[Samples]) -> str:
    """Prometheus' text format, version 0.0.4, of all metrics: also of those that have no sample."""
    samples: dict[str, list[tuple[tuple[str, ...], Value]]] = {}
    for some in many:
        for name, found in some.items():
            samples.setdefault(name, []).extend(found)
    lines: list[str] = []
    for metric in METRICS:
        name = PREFIX + metric.name
        lines += (f"# HELP {name} {_escaped(metric.help)}", f"# TYPE {name} {metric.kind}")
        for values, value in samples.get(metric.name, ()):
            labels = list(zip(metric.labels, values, strict=True))
            lines += (
                _histogram(name, labels, value) if isinstance(value, Distribution) else (_line(name, labels, value),)
            )
    return "\n".join(lines) + "\n"


def _histogram(name: str, labels: list[tuple[str, str]], seen: Distribution) -> Iterable[str]:
    total = 0
    for bound, count in seen.buckets:
        total += count
        if bound != math.inf:
            yield _line(f"{name}_bucket", [*labels, ("le", f"{bound:g}")], total)
    yield _line(f"{name}_bucket", [*labels, ("le", "+Inf")], seen.count)
    yield _line(f"{name}_sum", labels, seen.sum)
    yield _line(f"{name}_count", labels, seen.count)


def _line(name: str, labels: list[tuple[str, str]], value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
    return f"{name}{{{inside}}} {float(value)!r}" if inside else f"{name} {float(value)!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
