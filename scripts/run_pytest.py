"""Runs pytest in this environment, and notes for the end of `scripts/test` how many tests passed.

The arguments go to pytest. In the folder build are its report, pytest-3.13.xml say, which is JUnit's, and a record of
what it ran. On a free-threaded build, where grpcio's clients run in a second interpreter, that one then runs the tests
whose clients are in pytest's own process, with their servers on this one (`tests/interpreters.py`).

Of thousands of tests one that fails now and then must not hide what the others say. So a few failed tests are run once
more, in a process of their own; if they pass then, so does the run, and its summary names them. What is no test's
failure is never forgiven: a module that can't be imported, an interpreter that crashes.
"""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

BUILD = Path("build")
RECORDED_PYTEST = Path(__file__).with_name("recorded_pytest.py")
TESTS_FAILED = 1
NO_TESTS_COLLECTED = 5
MOST_RUN_AGAIN = 5


@dataclass
class Record:
    """What one process of pytest did."""

    code: int
    """Its exit code; negative when a signal ended it."""
    finished: bool = False
    forgivable: bool = True
    failed: list[str] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)
    last: str = ""
    """The last test that began."""
    running: bool = False
    """That one did not end."""

    @classmethod
    def read(cls, path: Path, code: int) -> "Record":
        """Returns what the file says, which recorded_pytest.py wrote."""
        record = cls(code)
        for line in path.read_text().splitlines() if path.exists() else ():
            event, test = json.loads(line)
            match event:
                case "begun":
                    record.last, record.running = test, True
                case "ended":
                    record.running = False
                case "passed":
                    record.passed.add(test)
                case "failed":
                    record.failed += [test] if test not in record.failed else []
                case "not collected" | "stopped early":
                    record.forgivable = False
                case _:
                    record.finished = event == "finished"
        record.passed.difference_update(record.failed)
        return record

    def may_be_run_again(self) -> bool:
        """Whether it was only a few tests that failed, of all that were to be run."""
        whole = self.finished and self.forgivable and self.code == TESTS_FAILED
        return whole and 0 < len(self.failed) <= MOST_RUN_AGAIN

    def how_it_died(self) -> str:
        """Says what ended pytest before its end, and in which test."""
        if self.code < 0:
            cause = f"DIED BY {signal.Signals(-self.code).name}"
        else:
            cause = f"ENDED TOO EARLY, WITH EXIT CODE {self.code},"
        if not self.last:
            return f"{cause} before the first test"
        return f"{cause} {'in' if self.running else 'after'} {self.last}"


def counts(report: Path, failed: Sequence[str]) -> str:
    """Returns a line on what pytest's report counts."""
    # Written just now by pytest.
    suite = next(ET.parse(report).iter("testsuite"))  # noqa: S314
    number = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    passed = number["tests"] - number["failures"] - number["errors"] - number["skipped"]
    failures = len(failed) or number["failures"] + number["errors"]
    line = f"{passed} passed, {number['skipped']} skipped"
    return f"{line}{f', {failures} FAILED' if failures else ''} in {float(suite.get('time', '0')):.0f} s"


def run_once(name: str, command: Sequence[str], environment: dict[str, str]) -> Record:
    """Runs pytest, its report and record being build/`name`.xml and .record."""
    report, record = BUILD / f"{name}.xml", BUILD / f"{name}.record"
    for path in (report, record):
        path.unlink(missing_ok=True)
    python, *arguments = command
    code = subprocess.call(
        [python, str(RECORDED_PYTEST), str(record), f"--junitxml={report}", *arguments], env=environment
    )
    return Record.read(record, code)


def run(title: str, name: str, python: str, *arguments: str, **variables: str) -> int:
    """Runs pytest on the interpreter `python`, a few failed tests twice, and notes the result; returns an exit code."""
    environment = {key: value for key, value in os.environ.items() if key != "ATOLL_CLIENT_PYTHON"} | variables
    first = run_once(name, [python, *arguments], environment)
    code, lines = first.code, []
    report = BUILD / f"{name}.xml"
    if not first.finished or code < 0:
        # Also when a test ends the process with exit code 0.
        code = 128 - code if code < 0 else code or 1
        lines.append(f"pytest {first.how_it_died()}; {len(first.passed)} tests had passed")
    elif report.exists():
        lines.append(counts(report, first.failed))
    if first.may_be_run_again():
        print(f"==> {len(first.failed)} failed; once more, alone:", *first.failed, sep="\n    ", file=sys.stderr)
        only = {"ATOLL_ONLY_TESTS": json.dumps(first.failed)}
        again = run_once(f"{name}-again", [python, *arguments], environment | only)
        flaky = [test for test in first.failed if test in again.passed]
        twice = [test for test in first.failed if test not in again.passed]
        if again.finished and again.code == 0 and not twice:
            code = 0
        lines += [f"{len(flaky)} FAILED FIRST AND PASSED WHEN RUN AGAIN: {', '.join(flaky)}"] if flaky else []
        lines += [f"{len(twice)} FAILED TWICE: {', '.join(twice)}"] if twice else []
        if not again.finished or again.code < 0:
            lines.append(f"when they were run again, pytest {again.how_it_died()}")
    with (BUILD / "test-summary").open("a") as summary:
        summary.writelines(f"{title}: {line}\n" for line in lines)
    return code


def main() -> int:
    """Runs pytest; returns its exit code."""
    BUILD.mkdir(exist_ok=True)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}{sys.abiflags}"
    title = f"pytest on CPython {platform.python_version()}{sys.abiflags}"
    name = f"pytest-{version}"
    client = os.environ.get("ATOLL_CLIENT_PYTHON")
    if client is None:
        return run(title, name, sys.executable, *sys.argv[1:])
    code = run(title, name, sys.executable, *sys.argv[1:], ATOLL_CLIENT_PYTHON=client)
    title += ", clients in pytest's own process"
    name += "-servers"
    second = run(title, name, client, "-m", "server_process", *sys.argv[1:], ATOLL_SERVER_PYTHON=sys.executable)
    return code or (0 if second == NO_TESTS_COLLECTED else second)


if __name__ == "__main__":
    sys.exit(main())
