"""Atoll and grpc.aio with the same handlers, taking turns under one load after the other."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks import certificates, echo_server
from benchmarks.processes import UnavailableError
from benchmarks.summary import Figure, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.echo_server import EchoServer, Inputs, Sample
    from benchmarks.h2load import Shape, Target
    from benchmarks.progress import Progress
    from benchmarks.result import Result

SERVERS: Final = {"every_kind_atoll": "atoll", "every_kind_grpc_aio": "grpc_aio"}
"""The modules in ``servers/`` and what figures call them."""
TITLES: Final = {"atoll": "atoll", "grpc_aio": "grpc.aio, uvloop"}

WARM_UP_SECONDS: Final = 1.0
OVERHEAD_SECONDS: Final = 0.4


@dataclass(frozen=True, slots=True)
class Case:
    """One load: its name in figures, how many calls are in flight, and where they go on a given server."""

    name: str
    shape: Shape
    target: Callable[[EchoServer], Target]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each case is measured."""

    rounds: int
    seconds: float

    def expected_seconds(self, cases: int) -> float:
        """Return how long ``cases`` take on both servers."""
        each = self.rounds * (self.seconds * 1.25 + OVERHEAD_SECONDS) + WARM_UP_SECONDS
        return len(SERVERS) * cases * each


@contextlib.contextmanager
def inputs(result: Result) -> Iterator[Inputs]:
    """Like ``echo_server.inputs``, with a certificate if one can be made; a note says why not."""
    with echo_server.inputs() as given:
        try:
            certificates.generate(given.protos)
        except UnavailableError as error:
            result.notes.append(f"left out TLS: {error}")
        yield given


@contextlib.contextmanager
def running(given: Inputs, result: Result) -> Iterator[dict[str, EchoServer]]:
    """Run both servers; one that can't run is left out with a note."""
    with contextlib.ExitStack() as stack:
        servers: dict[str, EchoServer] = {}
        for module, name in SERVERS.items():
            try:
                servers[name] = stack.enter_context(echo_server.running(module, given))
            except UnavailableError as error:
                result.notes.append(f"left out {TITLES[name]}: {error}")
        yield servers


def take_turns(
    benchmark: str, cases: Sequence[Case], servers: Mapping[str, EchoServer], plan: Plan, progress: Progress
) -> dict[tuple[str, str], list[Sample]]:
    """Measure each case on each server, round by round; the samples come by case and server."""
    samples: dict[tuple[str, str], list[Sample]] = {}
    for case in cases:
        aimed = {name: server.aimed_at(case.target(server)) for name, server in servers.items()}
        for name, server in aimed.items():
            progress.step(f"{benchmark} {case.name}, warm-up: {TITLES[name]}", WARM_UP_SECONDS)
            server.warm_up(case.shape)
        for number in range(plan.rounds):
            for name, server in aimed.items():
                label = f"{benchmark} {case.name}, round {number + 1} of {plan.rounds}: {TITLES[name]}"
                progress.step(label, plan.seconds * 1.25 + OVERHEAD_SECONDS)
                samples.setdefault((case.name, name), []).append(server.measure(case.shape, plan.seconds))
    return samples


def compare(prefix: str, values: Mapping[str, Sequence[float]], result: Result) -> Figure | None:
    """Add one quantity's figure for each server, and atoll's over grpc.aio's, which is returned if both ran.

    ``prefix`` and the quantity are divided by the last dot: ``tls.8x16.cpu_us`` becomes ``tls.8x16.atoll.cpu_us``.
    """
    place, _, quantity = prefix.rpartition(".")
    for name, measured in values.items():
        result.figures[f"{place}.{name}.{quantity}"] = Figure.of(measured)
    if not {"atoll", "grpc_aio"} <= values.keys():
        return None
    against = ratio(values["atoll"], values["grpc_aio"])
    result.figures[f"{place}.atoll.{quantity}.over.grpc_aio"] = against
    return against
