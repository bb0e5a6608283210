"""Runs one server; says so if what it needs is not installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks import protos
from benchmarks.servers.control import Control


def main() -> None:
    """Import the server that the command line names and run it."""
    name, directory = sys.argv[1:3]
    control = Control(protos.load(Path(directory)), Path(directory))
    try:
        module = importlib.import_module(f"benchmarks.servers.{name}")
    except ImportError as error:
        control.tell(unavailable=str(error))
        return
    module.serve(control)


if __name__ == "__main__":
    main()
