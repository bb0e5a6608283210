"""A run as text on stdout and as JSON in a file."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.result import Result, Table
    from benchmarks.thresholds import Verdict


def show(text: str = "") -> None:
    """Print one line, or several."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def show_machine(machine: Mapping[str, str]) -> None:
    """Print what the run is measured on."""
    width = max(len(name) for name in machine)
    for name, value in machine.items():
        show(f"{name:<{width}}  {value}")
    show()


def show_result(result: Result) -> None:
    """Print a benchmark's tables and notes."""
    for table in result.tables:
        show(render(table))
        show()
    for note in result.notes:
        show(f"note: {note}")
    if result.notes:
        show()


def show_verdicts(verdicts: Sequence[Verdict], skipped: str | None) -> None:
    """Print a line per threshold, or why none applies."""
    if skipped is not None:
        show(f"thresholds not checked: {skipped}")
        return
    for verdict in verdicts:
        show(str(verdict))


def render(table: Table) -> str:
    """Lay a table out in columns."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.columns))]
    rendered = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    rule = "-" * len(rendered[0])
    return "\n".join([table.title, rule, rendered[0], rule, *rendered[1:]])


def write_json(
    file: Path, machine: Mapping[str, str], results: Mapping[str, Result], verdicts: Sequence[Verdict]
) -> None:
    """Write machine, figures, notes and verdicts; figures have the names that ``thresholds.json`` uses."""
    content = {
        "machine": dict(machine),
        "figures": {
            name: asdict(figure) for result in results.values() for name, figure in sorted(result.figures.items())
        },
        "notes": [note for result in results.values() for note in result.notes],
        "thresholds": [
            {"figure": verdict.threshold.figure, "limit": verdict.threshold.limit, "value": verdict.value,
             "passed": verdict.passed}
            for verdict in verdicts
        ],
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
