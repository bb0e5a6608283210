"""Runs pytest in this environment, and notes for the end of `scripts/test` how many tests passed.

The arguments go to pytest. The report, build/pytest-3.13.xml say, is JUnit's. On a free-threaded build, where grpcio's
clients run in a second interpreter, that one then runs the tests whose clients are in pytest's own process, with their
servers on this one (`tests/interpreters.py`).
"""

import os
import platform
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

BUILD = Path(__file__).resolve().parent.parent / "build"
NO_TESTS_COLLECTED = 5


def run(title: str, report: Path, python: str, *arguments: str, **variables: str) -> int:
    """Runs pytest on the interpreter `python` and notes what passed; returns its exit code."""
    report.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "ATOLL_CLIENT_PYTHON"} | variables
    code = subprocess.call([python, "-m", "pytest", f"--junitxml={report}", *arguments], env=environment)
    if not report.exists():
        return code or 1
    # Written just now by pytest.
    suite = next(ET.parse(report).iter("testsuite"))  # noqa: S314
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    failed = f", {counts['failures'] + counts['errors']} FAILED" if counts["failures"] + counts["errors"] else ""
    line = f"{passed} passed, {counts['skipped']} skipped{failed} in {float(suite.get('time', '0')):.0f} s"
    with (BUILD / "test-summary").open("a") as summary:
        summary.write(f"{title}: {line}\n")
    return code


def main() -> int:
    """Runs pytest; returns its exit code."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}{sys.abiflags}"
    title = f"pytest on CPython {platform.python_version()}{sys.abiflags}"
    report = BUILD / f"pytest-{version}.xml"
    client = os.environ.get("ATOLL_CLIENT_PYTHON")
    if client is None:
        return run(title, report, sys.executable, *sys.argv[1:])
    code = run(title, report, sys.executable, *sys.argv[1:], ATOLL_CLIENT_PYTHON=client)
    title += ", clients in pytest's own process"
    report = BUILD / f"pytest-{version}-servers.xml"
    second = run(title, report, client, "-m", "server_process", *sys.argv[1:], ATOLL_SERVER_PYTHON=sys.executable)
    return code or (0 if second == NO_TESTS_COLLECTED else second)


if __name__ == "__main__":
    sys.exit(main())
