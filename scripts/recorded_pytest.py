"""pytest, with a record of what it does: `python scripts/recorded_pytest.py RECORD [ARGUMENT...]`.

The record is a file of lines, each a list in JSON: an event and the test it is about. A line is written as the event
happens, by one system call, so that the record says what pytest was at even if the interpreter crashes. With the
environment variable ATOLL_ONLY_TESTS, a list in JSON, of all tests that the arguments choose only those are run.
"""

import json
import os
import sys
from pathlib import Path

import pytest


class Recorder:
    """A plugin that writes down which tests begin, pass and fail, and what else makes pytest fail."""

    def __init__(self, path: Path) -> None:
        """Empties the file at `path` for the record."""
        # Not inherited by the processes that tests start.
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND)
        self._only: frozenset[str] = frozenset(json.loads(os.environ.pop("ATOLL_ONLY_TESTS", "[]")))

    def note(self, event: str, test: str = "") -> None:
        """Adds a line to the record."""
        os.write(self._file, (json.dumps([event, test]) + "\n").encode())

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leaves the tests that are asked for."""
        if self._only:
            config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in self._only])
            items[:] = [item for item in items if item.nodeid in self._only]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Notes a module that can't be imported, say."""
        if report.failed:
            self.note("not collected", report.nodeid)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Notes that a test begins."""
        self.note("begun", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes a failure in a test, or in what is set up and taken down around it."""
        if report.failed:
            self.note("failed", report.nodeid)
        elif report.passed and report.when == "call":
            self.note("passed", report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Notes that a test has ended."""
        self.note("ended", nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Notes that tests may be left that were not run, after --exitfirst, say."""
        if session.shouldfail or session.shouldstop:
            self.note("stopped early")


def main() -> int:
    """Runs pytest; returns its exit code."""
    # Tests are found and imported as by `python -m pytest`.
    sys.path[0] = str(Path.cwd())
    recorder = Recorder(Path(sys.argv[1]))
    code = int(pytest.main(sys.argv[2:], plugins=[recorder]))
    # After all of pytest's own taking down, which may raise.
    recorder.note("finished")
    return code


if __name__ == "__main__":
    sys.exit(main())
