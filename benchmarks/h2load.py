"""Load from nghttp2's ``h2load``: runs it, reads its summary and its log, and checks that the replies were replies.

h2load calls every HTTP 200 a success and gRPC answers errors with 200 too, so a run counts only if it brought the reply
bytes of as many echoes as were asked for. That is one reason to ask for a number of calls; the other is that
``--duration`` of h2load 1.52 does not end reliably with hundreds of connections to a fast server.

Rates and means come from runs without a log: writing it costs the client about 1 us per call, a third of what it spends
otherwise, on cores that the server needs too. The log serves the quantiles.
"""

from __future__ import annotations

import functools
import math
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import protos

REMEDY: Final = "h2load is missing: apt-get install nghttp2-client (macOS: brew install nghttp2)"

_REQUESTS = re.compile(r"^requests: .*? (\d+) succeeded, (\d+) failed, (\d+) errored", re.MULTILINE)
_RATE = re.compile(r"^finished in [^,]+, ([\d.]+) req/s", re.MULTILINE)
_MEAN = re.compile(r"^time for request: +\S+ +\S+ +([\d.]+)(us|ms|s) ", re.MULTILINE)
_TRAFFIC = re.compile(r"^traffic: .*\((\d+)\) data$", re.MULTILINE)
_MICROSECONDS: Final = {"us": 1.0, "ms": 1e3, "s": 1e6}
_CALIBRATION_SECONDS: Final = 0.4
_CALIBRATION_TIMEOUT: Final = 30.0


class H2loadError(Exception):
    """h2load is missing, failed, or measured something other than echoes; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How many calls are in flight: ``streams`` on each of ``connections``."""

    connections: int
    streams: int

    def __str__(self) -> str:
        """Return connections x streams, as in ``8x16``."""
        return f"{self.connections}x{self.streams}"

    def calls_for(self, seconds: float, calls_per_second: float) -> int:
        """Return how many calls take about ``seconds``, the same number on every connection, at least four."""
        each = round(seconds * calls_per_second / self.connections)
        return self.connections * max(each, math.ceil(4 / self.connections))


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes, the body it sends and the length of the body that must come back.

    With the scheme ``https`` the calls go over TLS; h2load takes any certificate.
    """

    port: int
    body: Path
    reply_bytes: int
    path: str = protos.PATH
    scheme: str = "http"

    @property
    def url(self) -> str:
        """Where the calls go."""
        return f"{self.scheme}://127.0.0.1:{self.port}{self.path}"


@dataclass(frozen=True, slots=True)
class Summary:
    """What h2load printed; ``mean_us`` is the mean duration of a call."""

    calls: int
    unsuccessful: int
    data_bytes: int
    calls_per_second: float
    mean_us: float


def executable() -> str:
    """Find h2load.

    Raises:
        H2loadError: it is not installed.
    """
    found = shutil.which("h2load")
    if found is None:
        raise H2loadError(REMEDY)
    return found


@functools.cache
def version() -> str:
    """Return what ``h2load --version`` prints, or ``not installed``."""
    found = shutil.which("h2load")
    if found is None:
        return "not installed"
    shown = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    return shown.stdout.strip().removeprefix("h2load ")


def measure(shape: Shape, calls: int, target: Target, timeout: float) -> Summary:
    """Make ``calls`` calls and check that echoes came back.

    Raises:
        H2loadError: see there.
    """
    summary = parse_summary(_run(shape, calls, target, timeout))
    check(summary, calls, target.reply_bytes)
    return summary


def durations(shape: Shape, calls: int, target: Target, timeout: float) -> list[int]:
    """Make ``calls`` calls and return how long each took, in microseconds, sorted.

    Raises:
        H2loadError: see there.
    """
    with tempfile.TemporaryDirectory(prefix="atoll-benchmarks-") as directory:
        log = Path(directory) / "calls.tsv"
        check(parse_summary(_run(shape, calls, target, timeout, f"--log-file={log}")), calls, target.reply_bytes)
        logged = parse_log(log.read_bytes())
    if len(logged) != calls:
        raise H2loadError(f"h2load logged {len(logged)} of {calls} calls")
    return sorted(logged)


def calibrate(shape: Shape, target: Target) -> float:
    """Return roughly how many calls per second the server answers; a warm-up of about half a second."""
    calls = shape.calls_for(0.0, 0.0)
    while True:
        started = time.monotonic()
        rate = measure(shape, calls, target, _CALIBRATION_TIMEOUT).calls_per_second
        if time.monotonic() - started > _CALIBRATION_SECONDS / 2:
            return rate
        calls = max(2 * calls, shape.calls_for(_CALIBRATION_SECONDS, rate))


def parse_summary(output: str) -> Summary:
    """Read the lines that h2load ends with.

    Raises:
        H2loadError: they are not there, for example because h2load could not connect.
    """
    requests, traffic, rate, mean = (pattern.search(output) for pattern in (_REQUESTS, _TRAFFIC, _RATE, _MEAN))
    if requests is None or traffic is None or rate is None or mean is None:
        raise H2loadError(f"h2load's output has no summary, it ends with: {output[-300:]!r}")
    succeeded, failed, errored = (int(number) for number in requests.groups())
    return Summary(
        calls=succeeded,
        unsuccessful=failed + errored,
        data_bytes=int(traffic[1]),
        calls_per_second=float(rate[1]),
        mean_us=float(mean[1]) * _MICROSECONDS[mean[2]],
    )


def parse_log(content: bytes) -> list[int]:
    """Return the durations of the successful calls in microseconds, from ``--log-file``'s tab-separated rows.

    The columns are start time, HTTP status (-1 if the stream failed) and duration; later versions may append more.
    """
    rows = (line.split(b"\t") for line in content.splitlines())
    return [int(row[2]) for row in rows if row[1] == b"200"]


def check(summary: Summary, calls: int, reply_bytes: int) -> None:
    """Make sure that all calls were answered with echoes.

    Raises:
        H2loadError: they were not.
    """
    if summary.calls != calls or summary.unsuccessful:
        raise H2loadError(f"{summary.calls} of {calls} calls succeeded, {summary.unsuccessful} failed")
    if summary.data_bytes != calls * reply_bytes:
        raise H2loadError(
            f"{calls} calls should have brought {calls * reply_bytes} reply bytes but brought {summary.data_bytes}: "
            "the server answers something other than echoes, probably a gRPC status"
        )


def _run(shape: Shape, calls: int, target: Target, timeout: float, *options: str) -> str:
    command = [
        executable(),
        "--threads=1",
        f"--clients={shape.connections}",
        f"--max-concurrent-streams={shape.streams}",
        f"--requests={calls}",
        f"--data={target.body}",
        *options,
        "--header=content-type: application/grpc",
        "--header=te: trailers",
        target.url,
    ]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise H2loadError(f"h2load made fewer than {calls} calls in {timeout:.0f} s: is the server stuck?") from error
    if finished.returncode != 0:
        raise H2loadError(f"h2load failed with exit code {finished.returncode}: {finished.stderr.strip()[-300:]}")
    return finished.stdout
