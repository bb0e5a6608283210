"""Runs the suites: ``python -m conformance [SUITE ...] [--server KIND] [--run PATTERN]``."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Final

from conformance import connect, grpcurl, interop, known
from conformance.go import BUILD
from conformance.kinds import KINDS
from conformance.known import Known
from conformance.outcome import SuiteError, UnavailableError
from conformance.report import Suite

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SUITES: Final = {
    "interop": "gRPC's interop tests with grpc-go's client",
    "connect": "connectrpc's conformance suite",
    "grpcurl": "grpcurl, by reflection",
}
UNAVAILABLE: Final = 69
"""The exit code when the machine lacks Go, or modules can't be fetched."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for.

    Returns:
        0; 1 when a case failed that is not known to, or passed that is; 2 when a suite did not work; 69 when the
        machine lacks what the suites are built from; 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=_listed(SUITES))
    parser.add_argument("--server", choices=KINDS, default="atoll", help=_listed(KINDS))
    parser.add_argument("--run", action="append", default=[], metavar="PATTERN", help="run only these cases")
    parser.add_argument(
        "--compress",
        action=argparse.BooleanOptionalAction,
        help="whether replies are compressed, in the suite connect; they are unless grpcio serves, which does not ask "
        "whether the client takes that",
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.suites) - SUITES.keys():
        parser.error(f"there is no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    started = time.monotonic()
    summary = BUILD / "summary"
    summary.unlink(missing_ok=True)
    try:
        suites = [_run(name, options) for name in options.suites or SUITES]
    except UnavailableError as error:
        sys.stderr.write(f"conformance: not run: {error}\n")
        _write(summary, f"not run: {error}\n")
        return UNAVAILABLE
    except (SuiteError, ValueError) as error:
        sys.stderr.write(f"conformance: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    said = "".join(f"{suite.summary()}\n" for suite in suites)
    sys.stdout.write(f"\n{KINDS[options.server]}, {time.monotonic() - started:.0f} s\n{said}")
    _write(summary, said)
    return 1 if any(suite.wrong for suite in suites) else 0


def _run(name: str, options: argparse.Namespace) -> Suite:
    kind: str = options.server
    patterns: list[str] = options.run
    lines = known.read(name, kind)
    suite = Suite(name, lines, quiet=name == "connect")
    asked = [Known(pattern, "asked for", skipped=False) for pattern in patterns]
    skipped = [line for line in lines if line.skipped]

    def wanted(case: str) -> bool:
        chosen = not asked or any(one.matches(case) for one in asked)
        return chosen and not any(line.matches(case) for line in skipped)

    if name == "connect":
        compress = options.compress if options.compress is not None else kind != "grpcio"
        left_out = [line.pattern for line in skipped]
        outcomes = connect.outcomes(kind, left_out, patterns, suite.progress, compress=compress)
    else:
        outcomes = (interop if name == "interop" else grpcurl).outcomes(kind, wanted)
    for outcome in outcomes:
        suite.add(outcome)
    suite.close(whole=not patterns)
    return suite


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _listed(choices: dict[str, str]) -> str:
    return "; ".join(f"{name}: {meaning}" for name, meaning in choices.items())


if __name__ == "__main__":
    sys.exit(main())
