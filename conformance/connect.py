"""connectrpc's conformance suite, as far as it is about gRPC over HTTP/2.

Its runner starts our servers and judges the answers; here it is started, watched, and its report read.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

from conformance import generated
from conformance.go import BUILD, CONNECT, REPOSITORY, program
from conformance.outcome import Outcome, SuiteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Progress = Callable[[int, int], None]

CONFIGURATION: Final = """\
features:
  versions: [HTTP_VERSION_2]
  protocols: [PROTOCOL_GRPC]
  codecs: [CODEC_PROTO]
  compressions: [COMPRESSION_IDENTITY, COMPRESSION_GZIP, COMPRESSION_DEFLATE]
  supportsH2c: true
  supportsTls: true
  supportsTlsClientCerts: true
  supportsMessageReceiveLimit: true
"""
SUITE_SECONDS: Final = 600
SERVERS_AT_ONCE: Final = 2
TOTAL: Final = re.compile(r"^(?:Computed|Filtered tests to) (\d+) test case permutation")
RECEIVED: Final = re.compile(r'^Received response for "(.+)"\.\.\.$')
FAILED: Final = re.compile(r"^FAILED: (.+):$")
CLOSING: Final = re.compile(r"^Total cases: \d+$")
NOT_RUN: Final = re.compile(r"^Another (\d+) could not be run")


def outcomes(
    kind: str, skipped: Sequence[str], wanted: Sequence[str], progress: Progress, *, compress: bool
) -> Iterator[Outcome]:
    """Run the suite.

    Args:
        kind: Which server, one of ``SERVERS``.
        skipped: Patterns, in the suite's own notation, of cases that are not run.
        wanted: Patterns of the only cases that are run; empty for all.
        compress: Whether replies are compressed for clients that accept it.
        progress: Is told how many cases of how many have been answered.

    Raises:
        UnavailableError: the suite's program can't be had.
        SuiteError: it can't be built, or did not get to its report.
    """
    runner = program("connectconformance", CONNECT, "./cmd/connectconformance")
    configuration = BUILD / "connect.yaml"
    configuration.write_text(CONFIGURATION)
    command = [str(runner), "--vv", "--mode=server", f"--conf={configuration}", f"--max-servers={SERVERS_AT_ONCE}"]
    command += [f"--skip={pattern}" for pattern in skipped] + [f"--run={pattern}" for pattern in wanted]
    command += ["--", sys.executable, "-m", "conformance.servers.connect", str(generated.folder()), "--server", kind]
    command += ["--compress"] if compress else []
    log = BUILD / f"connect-{kind}.log"
    names = _run(command, log, progress)
    report = log.read_text(errors="replace").splitlines()
    if not any(CLOSING.match(line) for line in report):
        said = log.with_suffix(".stderr").read_text(errors="replace").splitlines()
        raise SuiteError(f"the suite did not get to its report: {' '.join((said or report)[-3:])}; see {log}")
    failures = _failures(report)
    # What was never answered is in the report only.
    for name in sorted(names | failures.keys()):
        yield Outcome(name, failures.get(name, ""))
    for line in report:
        if match := NOT_RUN.match(line):
            yield Outcome("(the others)", f"{match[1]} cases got no answer, or were not run because others got none")


def _run(command: Sequence[str], log: Path, progress: Progress) -> set[str]:
    """Run the suite, its report going to ``log``; return the names of the cases that were answered."""
    answered: set[str] = set()
    total = 0
    with log.with_suffix(".stderr").open("w") as errors:
        process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    assert process.stdout is not None
    # With all its servers: whoever waits below then sees the output end.
    timer = threading.Timer(SUITE_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    try:
        with log.open("w") as written:
            for line in process.stdout:
                if match := RECEIVED.match(line):
                    answered.add(match[1])
                    progress(len(answered), total)
                elif match := TOTAL.match(line):
                    total = int(match[1])
                if not line.startswith(("Received response", "Sending request")):
                    written.write(line)
        process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return answered


def _failures(report: Sequence[str]) -> dict[str, str]:
    """Return what the report says of each case that failed."""
    failures: dict[str, str] = {}
    name = None
    for line in report:
        if match := FAILED.match(line):
            name = match[1]
            failures[name] = ""
        elif name is not None and line.startswith("\t"):
            failures[name] += ("; " if failures[name] else "") + line.strip()
        else:
            name = None
    return failures
