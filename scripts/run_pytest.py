"""Runs pytest in this environment, and notes for the end of `scripts/test` how many tests passed.

The arguments go to pytest. The report, build/pytest-3.13.xml say, is JUnit's.
"""

import platform
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

BUILD = Path(__file__).resolve().parent.parent / "build"


def main() -> int:
    """Runs pytest; returns its exit code."""
    version = platform.python_version()
    report = BUILD / f"pytest-{sys.version_info[0]}.{sys.version_info[1]}{sys.abiflags}.xml"
    report.unlink(missing_ok=True)
    code = subprocess.call([sys.executable, "-m", "pytest", f"--junitxml={report}", *sys.argv[1:]])
    if not report.exists():
        return code or 1
    # Written just now by pytest.
    suite = next(ET.parse(report).iter("testsuite"))  # noqa: S314
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    failed = f", {counts['failures'] + counts['errors']} FAILED" if counts["failures"] + counts["errors"] else ""
    line = f"{passed} passed, {counts['skipped']} skipped{failed} in {float(suite.get('time', '0')):.0f} s"
    with (BUILD / "test-summary").open("a") as summary:
        summary.write(f"pytest on CPython {version}: {line}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
