"""Runs pytest in this environment, and notes for the end of `scripts/test` how many tests passed.

The arguments go to pytest. In the folder build are its reports, pytest-3.13.xml say, which are JUnit's, and records of
what it ran. On a free-threaded build, where grpcio's clients run in a second interpreter, that one then runs the tests
whose clients are in pytest's own process, with their servers on this one (`tests/interpreters.py`).

Without arguments, two processes share the suite, for most tests wait most of the time: for other processes, for what
takes its time. Then a third runs the tests marked `alone`, beside nothing. ATOLL_TEST_PROCESSES says how many share it.
With arguments there is one process, a pytest as any other.

After `--leave-out-once`, which `scripts/test` says on the oldest CPython, a run without arguments leaves out the tests
marked `once`, but for those marked `smoke`, and the summary counts them. Who names tests gets what he names.

Of thousands of tests one that fails now and then must not hide what the others say. So a few failed tests are run once
more, in a process of their own; if they pass then, so does the run, and its summary names them. What is no test's
failure is never forgiven: a module that can't be imported, an interpreter that crashes.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

BUILD = Path("build")
RECORDED_PYTEST = Path(__file__).with_name("recorded_pytest.py")
PROCESSES = 2
MOST_RUN_AGAIN = 5
LEAVE_OUT_ONCE = "--leave-out-once"
TESTS_FAILED = 1
NO_TESTS_COLLECTED = 5


@dataclass
class Record:
    """What one process of pytest did."""

    code: int
    """Its exit code; negative when a signal ended it."""
    report: Path
    """What JUnit's format says of it; the file need not exist."""
    finished: bool = False
    forgivable: bool = True
    left: bool = False
    """There are tests for another process, those that are marked `alone`."""
    left_out: int = 0
    """So many tests are for another interpreter, those that are marked `once`."""
    failed: list[str] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)
    last: str = ""
    """The last test that began."""
    running: bool = False
    """That one did not end."""

    def read(self, path: Path) -> "Record":
        """Adds what the file says, which recorded_pytest.py wrote."""
        for line in path.read_text().splitlines() if path.exists() else ():
            event, test = json.loads(line)
            match event:
                case "begun":
                    self.last, self.running = test, True
                case "ended":
                    self.running = False
                case "passed":
                    self.passed.add(test)
                case "failed":
                    self.failed += [test] if test not in self.failed else []
                case "not collected" | "stopped early":
                    self.forgivable = False
                case "left":
                    self.left = True
                case "left out":
                    self.left_out = int(test)
                case _:
                    self.finished = event == "finished"
        self.passed.difference_update(self.failed)
        return self

    @property
    def died(self) -> bool:
        """Whether something ended it before its end, even if with exit code 0."""
        return self.code < 0 or not self.finished

    @property
    def exit_code(self) -> int:
        """Its exit code as a shell would give it; not 0 when it died."""
        return 128 - self.code if self.code < 0 else self.code or int(self.died)

    def how_it_died(self) -> str:
        """Says what ended pytest before its end, and in which test."""
        if self.code < 0:
            cause = f"DIED BY {signal.Signals(-self.code).name}"
        else:
            cause = f"ENDED TOO EARLY, WITH EXIT CODE {self.code},"
        if not self.last:
            return f"{cause} before the first test"
        return f"{cause} {'in' if self.running else 'after'} {self.last}"


class Process:
    """A process of pytest."""

    def __init__(
        self,
        name: str,
        options: Sequence[str | Path],
        command: Sequence[str],
        environment: dict[str, str],
        *,
        quiet: bool,
    ) -> None:
        """Starts it, its report and record being build/`name`.xml and .record; quiet until its end, if need be."""
        self._report, self._record = BUILD / f"{name}.xml", BUILD / f"{name}.record"
        self._log = BUILD / f"{name}.log"
        for path in (self._report, self._record, self._log):
            path.unlink(missing_ok=True)
        python, *arguments = command
        whole = [python, RECORDED_PYTEST, "--record", self._record, *options, "--", f"--junitxml={self._report}"]
        self._quiet = quiet
        if quiet:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [*whole, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
        else:
            self._process = subprocess.Popen([*whole, *arguments], env=environment)

    def wait(self) -> Record:
        """Waits for its end, and prints its output if it was quiet; returns what it did."""
        code = self._process.wait()
        if self._quiet:
            print("==> what was run beside it", file=sys.stderr, flush=True)
            sys.stdout.write(self._log.read_text(errors="replace"))
            sys.stdout.flush()
        return Record(code, self._report).read(self._record)

    def end(self) -> None:
        """Ends it if it still runs."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


def run_shared(
    name: str, command: Sequence[str], environment: dict[str, str], processes: int, chosen: Sequence[str]
) -> list[Record]:
    """Runs a suite, by the options `chosen`, in processes that share it, and then what is to be run alone."""
    claims = BUILD / f"{name}-claims"
    shutil.rmtree(claims, ignore_errors=True)
    claims.mkdir()
    options: list[str | Path] = [*chosen, "--alone", "never", "--claims", claims]
    # Each would write the others' failures over.
    command = [*command, "-p", "no:cacheprovider"]
    running = [
        Process(f"{name}-{number}", options, command, environment, quiet=number > 1)
        for number in range(1, processes + 1)
    ]
    try:
        records = [process.wait() for process in running]
        if any(record.left for record in records):
            running.append(Process(f"{name}-alone", [*chosen, "--alone", "only"], command, environment, quiet=False))
            records.append(running[-1].wait())
    finally:
        for process in running:
            process.end()
    return records


def run_again(name: str, command: Sequence[str], environment: dict[str, str], tests: Sequence[str]) -> Record:
    """Runs a few tests in a process of their own."""
    print(f"==> {len(tests)} failed; once more, alone:", *tests, sep="\n    ", file=sys.stderr)
    only = [f"--only={test}" for test in tests]
    return Process(f"{name}-again", only, command, environment, quiet=False).wait()


def counts(records: Sequence[Record], seconds: float) -> str:
    """Returns a line on what pytest's reports count."""
    number = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for record in records:
        if record.report.exists():
            # Written just now by pytest.
            suite = next(ET.parse(record.report).iter("testsuite"))  # noqa: S314
            number = {key: count + int(suite.get(key, "0")) for key, count in number.items()}
    passed = number["tests"] - number["failures"] - number["errors"] - number["skipped"]
    failed = len([test for record in records for test in record.failed]) or number["failures"] + number["errors"]
    # Each process counts those of the whole suite.
    left_out = max(record.left_out for record in records)
    others = f", {failed} FAILED" if failed else ""
    others += f", {left_out} left to the newest CPython" if left_out else ""
    return f"{passed} passed, {number['skipped']} skipped{others} in {seconds:.0f} s"


def run(
    title: str,
    name: str,
    python: str,
    *arguments: str,
    processes: int,
    chosen: Sequence[str] = (),
    **variables: str,
) -> int:
    """Runs pytest on the interpreter `python`, a few failed tests twice, and notes the result; returns an exit code."""
    environment = {key: value for key, value in os.environ.items() if key != "ATOLL_CLIENT_PYTHON"} | variables
    command = [python, *arguments]
    began = time.monotonic()
    if processes > 1:
        records = run_shared(name, command, environment, processes, chosen)
    else:
        records = [Process(name, chosen, command, environment, quiet=False).wait()]
    lines = [counts(records, time.monotonic() - began)]
    lines += [f"pytest {record.how_it_died()}" for record in records if record.died]
    # A process may find no test that is its to run.
    codes = {record.exit_code for record in records} - {0}
    if len(records) > 1 and any(record.code == 0 for record in records):
        codes.discard(NO_TESTS_COLLECTED)
    code = max(codes, default=0)
    failed = [test for record in records for test in record.failed]
    whole = codes == {TESTS_FAILED} and all(record.forgivable and not record.died for record in records)
    if whole and 0 < len(failed) <= MOST_RUN_AGAIN:
        again = run_again(name, command, environment, failed)
        flaky = [test for test in failed if test in again.passed]
        twice = [test for test in failed if test not in again.passed]
        if again.exit_code == 0 and not twice:
            code = 0
        lines += [f"{len(flaky)} FAILED FIRST AND PASSED WHEN RUN AGAIN: {', '.join(flaky)}"] if flaky else []
        lines += [f"{len(twice)} FAILED TWICE: {', '.join(twice)}"] if twice else []
        lines += [f"when they were run again, pytest {again.how_it_died()}"] if again.died else []
    with (BUILD / "test-summary").open("a") as summary:
        summary.writelines(f"{title}: {line}\n" for line in lines)
    return code


def main() -> int:
    """Runs pytest; returns its exit code."""
    BUILD.mkdir(exist_ok=True)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}{sys.abiflags}"
    title = f"pytest on CPython {platform.python_version()}{sys.abiflags}"
    name = f"pytest-{version}"
    asked = sys.argv[1:2] == [LEAVE_OUT_ONCE]
    arguments = sys.argv[2:] if asked else sys.argv[1:]
    chosen = [LEAVE_OUT_ONCE] if asked and not arguments else []
    processes = 1 if arguments else int(os.environ.get("ATOLL_TEST_PROCESSES", PROCESSES))
    client = os.environ.get("ATOLL_CLIENT_PYTHON")
    if client is None:
        return run(title, name, sys.executable, *arguments, processes=processes, chosen=chosen)
    code = run(title, name, sys.executable, *arguments, processes=processes, ATOLL_CLIENT_PYTHON=client)
    title += ", clients in pytest's own process"
    name += "-servers"
    variables = {"ATOLL_SERVER_PYTHON": sys.executable}
    second = run(title, name, client, "-m", "server_process", *arguments, processes=1, **variables)
    return code or (0 if second == NO_TESTS_COLLECTED else second)


if __name__ == "__main__":
    sys.exit(main())
