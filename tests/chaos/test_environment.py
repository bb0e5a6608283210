"""Delays from the environment: read when a loop is made, malformed values refused, and loud while they are on."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

import pytest

from atoll import chaos
from atoll.chaos import DelayInjector, DelayReport
from atoll.chaos._announcements import DelayCount
from atoll.errors import ChaosConfigurationError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Elsewhere = Callable[..., subprocess.CompletedProcess[str]]

DELAYS = "ATOLL_TESTING_DELAY_US"
SEED = "ATOLL_TESTING_SEED"


@pytest.mark.parametrize("value", [None, "", "  "])
def test_nothing_is_delayed_where_the_variable_is_not_set_or_empty(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv(DELAYS, value)
    assert DelayInjector.from_environment() is None
    assert chaos.environment_injector() is None
    assert not caplog.records


def test_where_the_variable_is_not_set_that_is_all_that_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SEED, "no seed at all")
    assert chaos.environment_injector() is None


def test_the_environment_gives_the_rules_and_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DELAYS, "Heartbeat=1000:2000,*=0:100")
    monkeypatch.setenv(SEED, " 17 ")
    wanted = DelayInjector.parse("Heartbeat=1000:2000,*=0:100", seed=17)
    assert DelayInjector.from_environment() == wanted
    assert chaos.environment_injector() == wanted
    assert chaos.environment_seed() == 17


def test_a_value_is_parsed_and_announced_once_and_another_value_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SEED, "18")
    monkeypatch.setenv(DELAYS, "once=1:2")
    first = chaos.environment_injector()
    assert first is chaos.environment_injector()
    monkeypatch.setenv(DELAYS, "twice=1:2")
    assert chaos.environment_injector() != first
    assert [(record.levelno, record.getMessage().partition(" (")[0]) for record in caplog.records] == [
        (logging.ERROR, "Delaying handlers: once=1:2"),
        (logging.ERROR, "Delaying handlers: twice=1:2"),
    ]
    assert "seed 18; set ATOLL_TESTING_SEED=18 to repeat" in caplog.text


def test_threads_that_look_at_once_get_one_injector_and_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SEED, "19")
    monkeypatch.setenv(DELAYS, "race=1:2")
    found: list[DelayInjector | None] = []
    together = threading.Barrier(8)

    def look() -> None:
        together.wait()
        found.append(chaos.environment_injector())

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(each) for each in found}) == 1
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("delays", "seed", "variable", "column"),
    [
        ("Heartbeat=1000", "1", DELAYS, 15),
        ("Heartbeat=1000:2000", "-1", SEED, 1),
        ("Heartbeat=1000:2000", "1e5", SEED, 2),
        ("Heartbeat=1000:2000", str(2**64), SEED, 1),
        ("Heartbeat=1000:2000", "9" * 5000, SEED, 1),
    ],
)
def test_a_malformed_value_is_refused_with_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, delays: str, seed: str, variable: str, column: int
) -> None:
    monkeypatch.setenv(DELAYS, delays)
    monkeypatch.setenv(SEED, seed)
    for _ in range(2):
        with pytest.raises(ChaosConfigurationError, match=f"^{variable}, ") as raised:
            chaos.environment_injector()
        assert raised.value.column == column
        assert str(raised.value).split("\n")[2].index("^") == 4 + column - 1


def test_a_seed_that_is_not_given_is_drawn_once_per_process_logged_and_good_for_a_repetition(
    elsewhere: Elsewhere,
) -> None:
    program = """
import os
from atoll import chaos
injector = chaos.environment_injector()
assert injector.seed == chaos.environment_seed() == chaos.DelayInjector.parse("a=1:2").seed
print(injector.seed, injector.preview("loop", "handler"))
"""
    first = elsewhere(program, **{DELAYS: "*=0:1000000"})
    seed = first.stdout.split()[0]
    assert f"Drew the seed {seed}; set ATOLL_TESTING_SEED={seed} to repeat this run" in first.stderr
    assert first.stderr.count("Drew the seed") == 1
    again = elsewhere(program, **{DELAYS: "*=0:1000000", SEED: seed})
    assert again.stdout == first.stdout
    assert "Drew the seed" not in again.stderr
    other = elsewhere(program, **{DELAYS: "*=0:1000000"})
    assert other.stdout != first.stdout


def test_what_was_delayed_is_logged_when_the_program_ends(elsewhere: Elsewhere) -> None:
    ended = elsewhere("from atoll import chaos; chaos.environment_injector()", **{DELAYS: "a=1:2", SEED: "1"})
    assert ended.returncode == 0
    assert ended.stderr.splitlines()[-1] == "No handler was delayed."
    quiet = elsewhere("from atoll import chaos; chaos.environment_injector()")
    assert (quiet.returncode, quiet.stderr) == (0, "")


# ------------------------------------------------------------------------------------------- what is delayed, out loud


def test_each_handler_that_is_delayed_is_announced_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    name = f"announced-{os.getpid()}"
    for _ in range(3):
        chaos.announce(name, "Heartbeat", 0.001, 0.002)
    chaos.announce(name, "Pull", 0.05, 0.1)
    chaos.announce(name, "Pull", 0.05, 0.2)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" (no. ")[0] for line in lines] == [
        f"Delaying handler Heartbeat on loop {name} by 0.001000 to 0.002000 s",
        f"Delaying handler Pull on loop {name} by 0.050000 to 0.100000 s",
        f"Delaying handler Pull on loop {name} by 0.050000 to 0.200000 s",
    ]
    numbers = [int(line.partition(" (no. ")[2].split()[0]) for line in lines]
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_a_report_of_delays_can_be_read_and_subtracted() -> None:
    earlier = DelayReport((DelayCount("nodes", "Heartbeat", 2, 0.003), DelayCount("store", "Get", 5, 0.5)))
    later = DelayReport(
        (
            DelayCount("nodes", "Heartbeat", 6, 0.011),
            DelayCount("nodes", "Register", 1, 0.25),
            DelayCount("store", "Get", 5, 0.5),
        )
    )
    between = later - earlier
    assert [(each.loop, each.handler, each.count) for each in between] == [
        ("nodes", "Heartbeat", 4),
        ("nodes", "Register", 1),
    ]
    assert between.count == 5
    assert str(between).splitlines() == [
        "5 delays of handlers:",
        "  nodes: Heartbeat  4 times, mean 2.000 ms",
        "  nodes: Register   1 times, mean 250.000 ms",
    ]
    assert str(later - later) == "No handler was delayed."
    assert DelayCount("nodes", "Heartbeat", 0, 0.0).mean == 0.0


def test_looking_at_delays_counts_none() -> None:
    before = chaos.delays()
    DelayInjector.parse("*=1:2", seed=1).preview("looked at", "handler", 100)
    assert not list(chaos.delays() - before)
