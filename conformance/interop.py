"""gRPC's interop tests, with the client of grpc-go: the cases that say something about a server."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING, Final

from conformance import generated
from conformance.child import server
from conformance.go import GRPC, program
from conformance.outcome import Outcome, SuiteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CASES: Final = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
)
"""Left out: what is about clients, load balancing and Google's credentials."""

CASE_SECONDS: Final = 60
# A busy machine is no failure: the client's own limit of 1 s for one call of a soak is for quiet ones.
PATIENCE: Final = (
    "-soak_iterations=50",
    "-soak_per_iteration_max_acceptable_latency_ms=20000",
    f"-soak_overall_timeout_seconds={CASE_SECONDS}",
)
HOST: Final = "foo.test.google.fr"
"""A host that the certificate is for."""


def outcomes(kind: str, wanted: Callable[[str], bool]) -> Iterator[Outcome]:
    """Run the cases whose names, such as ``tls/ping_pong``, are wanted.

    Raises:
        UnavailableError: the client can't be had.
        SuiteError: the client can't be built.
    """
    client = program("interop-client", GRPC, "./interop/client")
    certificates = generated.folder()
    secured = ("-use_tls", "-use_test_ca", f"-ca_file={certificates / 'ca.pem'}", f"-server_host_override={HOST}")
    for security, flags in (("plain", ()), ("tls", secured)):
        names = {f"{security}/{case}": case for case in CASES if wanted(f"{security}/{case}")}
        if not names:
            continue
        arguments = [str(certificates), "--server", kind, *(["--tls"] if flags else [])]
        try:
            with server("conformance.servers.interop", *arguments) as port:
                for name, case in names.items():
                    command = [client, "-server_host=127.0.0.1", f"-server_port={port}", f"-test_case={case}"]
                    yield _run(name, [*map(str, command), *PATIENCE, *flags])
        except SuiteError as error:
            yield from (Outcome(name, str(error)) for name in names)


def _run(name: str, command: Sequence[str]) -> Outcome:
    started = time.monotonic()
    try:
        finished = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
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
    failure = "" if finished.returncode == 0 else finished.stdout.strip()[-1000:] or f"exit code {finished.returncode}"
    return Outcome(name, failure, seconds)
