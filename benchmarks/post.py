"""Post and run: what it costs to have a function run on another thread, and what recording adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.processes import Child
from benchmarks.result import Result, Table, times
from benchmarks.summary import Figure, ratio

if TYPE_CHECKING:
    from benchmarks.progress import Progress

PEERS: Final = ("uvloop", "asyncio", "rloop", "SimpleQueue")
ATOLL: Final = ("atoll post", "atoll bind")
CASES: Final = ("1 thread", "4 threads", "1 thread, 1 argument")

_ROUND_SECONDS: Final = 2.5
_PAIR_SECONDS: Final = 0.012
_ANSWER_TIMEOUT: Final = 60.0


class PostBenchmark:
    """Runs ``benchmarks.posting`` in its own process and compares the targets."""

    name = "post"

    def __init__(self, *, quick: bool) -> None:
        """Choose the length of the run."""
        self._rounds = 3 if quick else 9
        self._pairs = 100 if quick else 400
        self.expected_seconds = self._rounds * _ROUND_SECONDS + self._pairs * _PAIR_SECONDS

    def run(self, progress: Progress) -> Result:
        """See ``Benchmark``."""
        result = Result()
        measured: dict[tuple[str, str], list[float]] = {}
        with Child("benchmarks.posting", str(self._rounds), str(self._pairs)) as child:
            for name, reason in child.announcement["missing"].items():
                result.notes.append(f"left out {name}: {reason}")
            shown = -1
            while "done" not in (line := child.receive(_ANSWER_TIMEOUT)):
                if "ns" in line:
                    if line["round"] != shown:
                        shown = line["round"]
                        progress.step(f"post and run, round {shown + 1} of {self._rounds}", _ROUND_SECONDS)
                    measured.setdefault((line["case"], line["target"]), []).append(line["ns"])
                elif "recording" in line:
                    progress.step("post and run: the cost of recording", self._pairs * _PAIR_SECONDS)
                elif "recording_ns" in line:
                    _add_recording(line["recording_ns"], result)
        for case in CASES:
            _compare(case, measured, result)
        rows = tuple(_row(name, result) for name in (*ATOLL, *PEERS) if (CASES[0], name) in measured)
        columns = ["target", *CASES, "uvloop : target"]
        title = "Post and run, ns each (atoll records, nobody else does)"
        result.tables.insert(0, Table(title, tuple(columns), rows))
        return result


def key(text: str) -> str:
    """Turn a title into a part of a figure's name."""
    return text.replace(", ", "_").replace(" ", "_").lower()


def _compare(case: str, measured: dict[tuple[str, str], list[float]], result: Result) -> None:
    for name in (*ATOLL, *PEERS):
        values = measured.get((case, name))
        if values is None:
            continue
        prefix = f"post.{key(case)}.{key(name)}"
        result.figures[f"{prefix}.ns"] = Figure.of(values)
        uvloop = measured.get((case, "uvloop"))
        if uvloop is not None:
            result.figures[f"{prefix}.speed.over.uvloop"] = ratio(uvloop, values)


def _row(name: str, result: Result) -> tuple[str, ...]:
    figures = [result.figures[f"post.{key(case)}.{key(name)}.ns"] for case in CASES]
    against = result.figures.get(f"post.{key(CASES[0])}.{key(name)}.speed.over.uvloop")
    shown = [f"{figure.median:,.0f} ({figure.low:,.0f}-{figure.high:,.0f})" for figure in figures]
    return (name, *shown, times(against))


def _add_recording(differences: list[float], result: Result) -> None:
    figure = result.figures["post.recording.ns"] = Figure.of_quartiles(differences)
    shown = f"{figure.median:.1f} ({figure.low:.1f} to {figure.high:.1f})"
    row = (f"median of {len(differences)} pairs (quartiles)", shown)
    result.tables.append(Table("Recording minus not recording, ns per handler", ("", "ns"), (row,)))
