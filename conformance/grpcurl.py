"""grpcurl, which learns of the services by reflection: it lists and describes them, and calls their methods."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from conformance import generated
from conformance.child import server
from conformance.go import GRPCURL, program
from conformance.interop import HOST
from conformance.outcome import Outcome, SuiteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVICE: Final = "grpc.testing.TestService"
CASE_SECONDS: Final = 30


@dataclass(frozen=True)
class Case:
    """One use of grpcurl."""

    name: str
    arguments: tuple[str, ...]
    """What comes after the address."""
    expected: tuple[str, ...]
    """Texts that it must print."""
    data: str | None = None
    """Requests in JSON."""
    code: int = 0
    """Its exit code: 64 and a status that is not OK."""
    times: int = 1
    """How often it must print the first text."""


CASES: Final = (
    Case("list the services", ("list",), (SERVICE, "grpc.reflection.v1")),
    Case("list the methods of a service", ("list", SERVICE), (f"{SERVICE}.UnaryCall", f"{SERVICE}.FullDuplexCall")),
    Case("describe a service", ("describe", SERVICE), ("rpc UnaryCall ( .grpc.testing.SimpleRequest )", "stream")),
    Case("describe a message", ("describe", "grpc.testing.SimpleRequest"), ("int32 response_size = 2;",)),
    Case("describe what is not there", ("describe", "grpc.testing.Nothing"), ("Symbol not found",), code=1),
    Case("call a method", (f"{SERVICE}/UnaryCall",), ('"body": "AAAA"',), json.dumps({"responseSize": 3})),
    Case(
        "call a method that streams replies",
        (f"{SERVICE}/StreamingOutputCall",),
        ('"payload"',),
        json.dumps({"responseParameters": [{"size": size} for size in (1, 2, 3)]}),
        times=3,
    ),
    Case(
        "call a method that streams requests",
        (f"{SERVICE}/StreamingInputCall",),
        ('"aggregatedPayloadSize": 6',),
        json.dumps({"payload": {"body": "AAAA"}}) * 2,
    ),
    Case(
        "call a method that streams both ways",
        (f"{SERVICE}/FullDuplexCall",),
        ('"payload"',),
        json.dumps({"responseParameters": [{"size": 1}]}) * 4,
        times=4,
    ),
    Case(
        "call a method that fails",
        (f"{SERVICE}/UnaryCall",),
        ("Code: FailedPrecondition", "Message: not today"),
        json.dumps({"responseStatus": {"code": 9, "message": "not today"}}),
        code=64 + 9,
    ),
    Case("call a method that is not implemented", (f"{SERVICE}/UnimplementedCall",), ("Code: Unimplemented",), code=76),
)


def outcomes(kind: str, wanted: Callable[[str], bool]) -> Iterator[Outcome]:
    """Run the cases whose names, such as ``plain/describe a service``, are wanted.

    Raises:
        UnavailableError: grpcurl can't be had.
        SuiteError: grpcurl can't be built.
    """
    grpcurl = program("grpcurl", GRPCURL, "./cmd/grpcurl")
    certificates = generated.folder()
    for security in ("plain", "tls"):
        names = {f"{security}/{case.name}": case for case in CASES if wanted(f"{security}/{case.name}")}
        if not names:
            continue
        flags = ["-plaintext"]
        if security == "tls":
            flags = ["-cacert", str(certificates / "ca.pem"), "-authority", HOST]
        arguments = [str(certificates), "--server", kind, *(["--tls"] if security == "tls" else [])]
        try:
            with server("conformance.servers.interop", *arguments) as port:
                for name, case in names.items():
                    data = ["-d", "@"] if case.data is not None else []
                    command = [str(grpcurl), *flags, *data, f"127.0.0.1:{port}", *case.arguments]
                    yield _run(name, case, command)
        except SuiteError as error:
            yield from (Outcome(name, str(error)) for name in names)


def _run(name: str, case: Case, command: list[str]) -> Outcome:
    started = time.monotonic()
    try:
        finished = subprocess.run(
            command,
            input=case.data or "",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=CASE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(name, f"did not end within {CASE_SECONDS} s", CASE_SECONDS)
    seconds = time.monotonic() - started
    missing = [text for text in case.expected if text not in finished.stdout]
    said = f"it printed:\n{finished.stdout.strip()[-1000:]}"
    failure = ""
    if finished.returncode != case.code:
        failure = f"exit code {finished.returncode} instead of {case.code}; {said}"
    elif missing:
        failure = f"it did not print {missing}; {said}"
    elif finished.stdout.count(case.expected[0]) < case.times:
        failure = f"it did not print {case.expected[0]!r} {case.times} times; {said}"
    return Outcome(name, failure, seconds)
