"""pytest, with a record of what it does.

    python scripts/recorded_pytest.py --record FILE [OPTION...] -- [ARGUMENT...]

The arguments are pytest's; of the tests that they choose, the options may leave some to other processes.

The record is a file of lines, each a list in JSON: an event and the test it is about, or how many they are. A line is
written as the event happens, by one system call, so that the record says what pytest was at even if the interpreter
crashes.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


class Recorder:
    """A plugin that writes down which tests begin, pass and fail, and what else makes pytest fail."""

    def __init__(self, path: Path) -> None:
        """Empties the file at `path` for the record."""
        # Not inherited by the processes that tests start.
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND)

    def note(self, event: str, test: str = "") -> None:
        """Adds a line to the record."""
        os.write(self._file, (json.dumps([event, test]) + "\n").encode())

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


class Chosen:
    """A plugin that leaves out the tests for which `wanted` is false."""

    def __init__(self, wanted: Callable[[pytest.Item], bool], leaves_out: Callable[[int], None]) -> None:
        """Calls `leaves_out` with their number when there are such tests."""
        self._wanted = wanted
        self._leaves_out = leaves_out

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Takes them from the list."""
        left_out = [item for item in items if not self._wanted(item)]
        if left_out:
            items[:] = [item for item in items if self._wanted(item)]
            config.hook.pytest_deselected(items=left_out)
            self._leaves_out(len(left_out))


def runs_everywhere(item: pytest.Item) -> bool:
    """Whether a test says something of each interpreter: not those marked `once`, but for those marked `smoke`."""
    return item.get_closest_marker("once") is None or item.get_closest_marker("smoke") is not None


class Claims:
    """A plugin that shares a suite's files with other processes: each runs those that none has claimed before.

    A claim is an empty file in a folder, made in one step. Every process is a whole pytest, with a beginning and an end
    of its own, and what goes wrong in them counts. (The workers of pytest-xdist do not tell of a crash, or of an error
    of pytest's, after their last test.)
    """

    def __init__(self, folder: Path) -> None:
        """Claims in `folder`, which is empty when the first process begins."""
        self._folder = folder
        self._answers: dict[str, bool] = {}

    def _is_ours(self, file: str) -> bool:
        if file not in self._answers:
            try:
                (self._folder / file.replace("/", "+")).touch(exist_ok=False)
            except FileExistsError:
                self._answers[file] = False
            else:
                self._answers[file] = True
        return self._answers[file]

    def _ours(self, items: list[pytest.Item]) -> Iterator[pytest.Item | None]:
        """Our tests and then None. A file is claimed when the test before its first begins."""
        for item in items:
            if self._is_ours(item.nodeid.partition("::")[0]):
                yield item
        yield None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Runs our tests; pytest's own loop does the rest, where there is nothing to run."""
        if session.testsfailed or session.config.option.collectonly:
            return None
        for item, following in itertools.pairwise(self._ours(session.items)):
            if item is None:
                break
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        return True


def main() -> int:
    """Runs pytest; returns its exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", type=Path, required=True, help="the file for the record")
    parser.add_argument("--only", action="append", metavar="TEST", help="run no other tests than these")
    parser.add_argument("--leave-out-once", action="store_true", help="leave out tests marked once, not smoke")
    parser.add_argument("--alone", choices=["only", "never"], help="run no others than those marked alone, or none")
    parser.add_argument("--claims", type=Path, help="share the files with processes that have this folder, too")
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    # Tests are found and imported as by `python -m pytest`.
    sys.path[0] = str(Path.cwd())
    recorder = Recorder(options.record)
    plugins: list[object] = [recorder]
    if options.only:
        plugins.append(Chosen(lambda item: item.nodeid in options.only, lambda _count: None))
    # Before the next, so that each of the processes that share a suite counts them all.
    if options.leave_out_once:
        plugins.append(Chosen(runs_everywhere, lambda count: recorder.note("left out", str(count))))
    if options.alone:
        wanted = options.alone == "only"
        plugins.append(
            Chosen(
                lambda item: (item.get_closest_marker("alone") is not None) is wanted,
                lambda _count: recorder.note("left"),
            )
        )
    if options.claims:
        plugins.append(Claims(options.claims))
    code = int(pytest.main(options.arguments, plugins=plugins))
    # After all of pytest's own taking down, which may raise.
    recorder.note("finished")
    return code


if __name__ == "__main__":
    sys.exit(main())
