"""Runs the benchmarks: ``python -m benchmarks [NAME ...] [--json FILE] [--quick] [--check]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import h2load, machine, report, thresholds
from benchmarks.broadcast import BroadcastBenchmark
from benchmarks.control.failover import FailoverBenchmark
from benchmarks.control.kv import KvBenchmark
from benchmarks.control.nodes import NodesBenchmark
from benchmarks.control.restart import RestartBenchmark
from benchmarks.control.watchers import WatchersBenchmark
from benchmarks.echo import EchoBenchmark
from benchmarks.idle import IdleBenchmark
from benchmarks.interceptor import InterceptorBenchmark
from benchmarks.neighbour import NeighbourBenchmark
from benchmarks.overhead import OverheadBenchmark
from benchmarks.overload import OverloadBenchmark
from benchmarks.payload import PayloadBenchmark
from benchmarks.post import PostBenchmark
from benchmarks.processes import REPOSITORY, ChildFailedError
from benchmarks.progress import Progress
from benchmarks.scaling import ScalingBenchmark
from benchmarks.streaming import StreamingBenchmark
from benchmarks.tls import TlsBenchmark

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.result import Benchmark, Result

BENCHMARKS: Final[dict[str, Callable[..., Benchmark]]] = {
    "echo": EchoBenchmark,
    "post": PostBenchmark,
    "neighbour": NeighbourBenchmark,
    "scaling": ScalingBenchmark,
    "overhead": OverheadBenchmark,
    "overload": OverloadBenchmark,
    "streaming": StreamingBenchmark,
    "payload": PayloadBenchmark,
    "tls": TlsBenchmark,
    "interceptor": InterceptorBenchmark,
    "idle": IdleBenchmark,
    "broadcast": BroadcastBenchmark,
    "nodes": NodesBenchmark,
    "kv": KvBenchmark,
    "watchers": WatchersBenchmark,
    "restart": RestartBenchmark,
    "failover": FailoverBenchmark,
}
GROUPS: Final = {"control": ("nodes", "kv", "watchers", "restart", "failover")}
"""Several by one name."""
LOADED: Final = {"echo", "neighbour", "streaming", "payload", "tls", "interceptor"}
"""Those that need h2load."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for.

    Returns:
        0; 1 when a threshold is missed and ``--check`` is given; 2 when measuring was not possible; 130 after Ctrl-C.
    """
    options = _parse(arguments)
    asked = [name for given in options.names for name in GROUPS.get(given, (given,))]
    names = list(dict.fromkeys(asked)) or list(BENCHMARKS)
    try:
        if LOADED.intersection(names):
            h2load.executable()
        return _run(names, options)
    except (h2load.H2loadError, ChildFailedError) as error:
        sys.stderr.write(f"\n{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: nothing was written\n")
        return 130


def _run(names: list[str], options: argparse.Namespace) -> int:
    benchmarks: list[Benchmark] = [BENCHMARKS[name](quick=options.quick) for name in names]
    facts = machine.facts()
    report.show_machine(facts)
    progress = Progress(sum(benchmark.expected_seconds for benchmark in benchmarks))
    results: dict[str, Result] = {}
    for benchmark in benchmarks:
        results[benchmark.name] = benchmark.run(progress)
        progress.close()
        report.show_result(results[benchmark.name])

    committed = thresholds.committed()
    skipped = None
    if not committed.apply_to(thresholds.running_python()):
        skipped = f"they hold from Python {'.'.join(map(str, committed.minimum_python))} on"
    figures = {name: figure for result in results.values() for name, figure in result.figures.items()}
    verdicts = [] if skipped else committed.judge([name for name in names if results[name].applies], figures)
    report.show_verdicts(verdicts, skipped)
    report.write_json(options.json, facts, results, verdicts)
    report.show(f"\nwritten to {options.json}")
    return int(options.check and not all(verdict.passed for verdict in verdicts))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measures atoll beside its peers; about 16 minutes, --quick about 7."
    )
    known = [*BENCHMARKS, *GROUPS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(known)} (default: all)")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        default=REPOSITORY / "build" / "benchmarks.json",
        help="where the figures go (default: build/benchmarks.json)",
    )
    parser.add_argument("--quick", action="store_true", help="shorter and noisier")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a threshold is missed")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in known:
            parser.error(f"there is no benchmark {name!r}; choose from {', '.join(known)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
