"""Measures one part, ``python -m benchmarks.overheads PART ROUNDS SECONDS``, and writes a line of JSON per round.

First ``{"part", "missing"}``, or ``{"unavailable"}`` where the part can't be measured; then ``{"figures": {...}}`` per
round; then ``{"done": true}``.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys

from benchmarks.overheads import peers


def main() -> None:
    """Import the part that the command line names and measure it."""
    name, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    try:
        part = importlib.import_module(f"benchmarks.overheads.{name}")
    except ImportError as error:
        _tell(unavailable=str(error))
        return
    _tell(part=name, missing=peers.missing())
    for figures in part.rounds(count, seconds):
        _tell(figures=figures)
        gc.collect()
    _tell(done=True)


def _tell(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
