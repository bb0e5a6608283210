"""Fault sites: off by default, activated per run, firing now and then, from one seed, with a report."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("hypothesis", reason="has no wheel for this Python")

from hypothesis import given
from hypothesis import strategies as st

from atoll import chaos
from atoll.chaos import FaultReport, FaultSite, SiteRule
from atoll.errors import ChaosConfigurationError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Elsewhere = Callable[..., subprocess.CompletedProcess[str]]

SLOW = chaos.site("test.write.slow")
LOST = chaos.site("test.lease.lost")
UNREACHED = chaos.site("test.unreached")


def draws(site: FaultSite, count: int) -> list[bool]:
    return [site.fires() for _ in range(count)]


# ------------------------------------------------------------------------------------------------------------- on, off


def test_sites_are_off_unless_they_are_turned_on() -> None:
    assert draws(SLOW, 100) == [False] * 100
    report = chaos.faults()
    assert report.seed is None
    assert report["test.write.slow"].reached == 0
    assert "Fault sites are off; " in str(report)


def test_sites_are_on_for_the_length_of_a_block() -> None:
    with chaos.sites(seed=1, activation=1, firing=1) as run:
        assert SLOW.fires()
        assert chaos.faults() == run.report()
    assert not SLOW.fires()
    assert run.report()["test.write.slow"].fired == 1


def test_a_block_ends_with_an_exception_as_well() -> None:
    with pytest.raises(KeyError), chaos.sites(seed=1, activation=1, firing=1):
        raise KeyError
    assert not SLOW.fires()


def test_of_nested_blocks_the_inner_one_is_in_effect() -> None:
    with chaos.sites(seed=1, activation=1, firing=1) as outer:
        with chaos.sites(seed=1, activation=0) as inner:
            assert not SLOW.fires()
        assert SLOW.fires()
    assert outer.report()["test.write.slow"].reached == 1
    assert inner.report()["test.write.slow"].reached == 1


def test_one_name_is_one_site() -> None:
    assert chaos.site("test.write.slow") is SLOW
    assert repr(SLOW) == "<FaultSite 'test.write.slow'>"


@pytest.mark.parametrize("name", ["", "*", " test", "test ", "a,b", "a=b", "store.*", "a\nb"])
def test_a_site_has_a_name_that_a_rule_can_have(name: str) -> None:
    with pytest.raises(ChaosConfigurationError):
        chaos.site(name)


def test_a_run_is_loud(caplog: pytest.LogCaptureFixture) -> None:
    rule = SiteRule("test.write.slow", 1, 1)
    with chaos.sites(seed=77, activation=0, rules=[rule]):
        draws(SLOW, 5)
        draws(LOST, 5)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (
            logging.ERROR,
            "Fault sites are on: test.write.slow=1.0:1.0,*=0.0:0.25, seed 77; set ATOLL_TESTING_SEED=77 to repeat",
        ),
        (logging.WARNING, "Fault site test.write.slow fires on loop (none), for the first time there"),
    ]


# ---------------------------------------------------------------------------------------------------------- two levels


def test_a_quarter_of_the_runs_activate_a_site_and_there_a_quarter_of_its_draws_fire() -> None:
    logging.getLogger("atoll.chaos").disabled = True
    try:
        activated, fired = 0, 0
        for seed in range(2_000):
            with chaos.sites(seed=seed) as run:
                happened = sum(draws(SLOW, 20))
            count = run.report()["test.write.slow"]
            assert (count.reached, count.fired) == (20, happened)
            assert count.activated or not happened
            activated += count.activated
            fired += happened
    finally:
        logging.getLogger("atoll.chaos").disabled = False
    # Six standard deviations, of 19 and of about 43.
    assert abs(activated - 500) < 116
    assert abs(fired - activated * 5) < 260


def test_sites_are_activated_independently_of_each_other() -> None:
    both = []
    for seed in range(500):
        with chaos.sites(seed=seed) as run:
            report = run.report()
        both.append((report["test.write.slow"].activated, report["test.lease.lost"].activated))
    assert set(both) == {(False, False), (False, True), (True, False), (True, True)}


def test_rules_by_name_beat_those_of_all_others() -> None:
    with chaos.sites(seed=1, activation=1, firing=1, rules=[SiteRule("test.lease.lost", 0, 1)]) as run:
        assert draws(SLOW, 10) == [True] * 10
        assert draws(LOST, 10) == [False] * 10
    assert not run.report()["test.lease.lost"].activated


@given(st.integers(0, 2**64 - 1))
def test_a_seed_gives_the_same_draws_again_whatever_other_sites_do(seed: int) -> None:
    with chaos.sites(seed=seed, activation=1, firing=0.5):
        first = draws(SLOW, 50)
    with chaos.sites(seed=seed, activation=1, firing=0.5):
        again = []
        for number in range(50):
            again.append(SLOW.fires())
            draws(LOST, number % 3)
    assert again == first


def test_another_seed_gives_other_draws() -> None:
    with chaos.sites(seed=1, activation=1, firing=0.5):
        first = draws(SLOW, 100)
    with chaos.sites(seed=2, activation=1, firing=0.5):
        assert draws(SLOW, 100) != first


def test_two_sites_draw_differently() -> None:
    with chaos.sites(seed=1, activation=1, firing=0.5):
        assert draws(SLOW, 100) != draws(LOST, 100)


def test_no_draw_is_lost_or_taken_twice_by_threads_that_draw_at_once() -> None:
    with chaos.sites(seed=5, activation=1, firing=0.5):
        alone = sum(draws(SLOW, 4_000))
    with chaos.sites(seed=5, activation=1, firing=0.5) as run:
        together = threading.Barrier(4)

        def draw() -> None:
            together.wait()
            draws(SLOW, 1_000)

        threads = [threading.Thread(target=draw) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    count = run.report()["test.write.slow"]
    assert (count.reached, count.fired) == (4_000, alone)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"seed": -1}, "sites: seed=-1 is not a whole number"),
        ({"activation": 1.5}, "the activation '1.5' is not a probability"),
        ({"firing": -0.5}, "the firing '-0.5' is not a probability"),
        ({"firing": float("nan")}, "the firing 'nan' is not a probability"),
        ({"rules": [SiteRule("a"), SiteRule("a")]}, "'a' has a rule already"),
        ({"rules": [SiteRule("*")]}, r"'\*' has a rule already"),
    ],
)
def test_a_run_with_impossible_settings_does_not_start(options: dict[str, object], problem: str) -> None:
    with pytest.raises(ChaosConfigurationError, match=problem), chaos.sites(**options):  # type: ignore[arg-type]
        pytest.fail("it has started")
    assert not SLOW.fires()


# -------------------------------------------------------------------------------------------------------------- report


def test_a_report_tells_which_sites_were_reached_were_activated_and_fired() -> None:
    rules = [SiteRule("test.write.slow", 1, 1), SiteRule("test.lease.lost", 0, 1), SiteRule("test.no.such.site", 1, 1)]
    with chaos.sites(seed=9, activation=1, rules=rules) as run:
        draws(SLOW, 3)
        draws(LOST, 2)
    report = run.report()
    assert isinstance(report, FaultReport)
    assert (report.seed, report.unknown) == (9, ("test.no.such.site",))
    assert [count.site for count in report] == sorted(count.site for count in report)
    slow, lost, unreached = (report[site.name] for site in (SLOW, LOST, UNREACHED))
    assert (slow.activated, slow.reached, slow.fired, slow.loops) == (True, 3, 3, (("", 3, 3),))
    assert (lost.activated, lost.reached, lost.fired, lost.loops) == (False, 2, 0, (("", 2, 0),))
    assert (unreached.activated, unreached.reached, unreached.fired, unreached.loops) == (True, 0, 0, ())
    lines = str(report).splitlines()
    assert lines[0].startswith("Fault sites, seed 9: ")
    assert lines[0].endswith(" 1 fired.")
    width = max(len(count.site) for count in report)
    assert f"  {'test.write.slow':{width}}  activated, fired 3 of 3 times (outside of loops: 3 of 3)" in lines
    assert f"  {'test.lease.lost':{width}}  not activated, fired 0 of 2 times (outside of loops: 0 of 2)" in lines
    assert f"  {'test.unreached':{width}}  activated, never reached" in lines
    assert lines[-1] == "  Rules for sites that no code declares: test.no.such.site."


def test_a_report_asked_for_an_unknown_site_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"no fault site 'nonsense'; declared: .*test\.write\.slow"):
        chaos.faults()["nonsense"]


# ----------------------------------------------------------------------------------------------------- the environment

PROGRAM = """
from atoll import chaos
slow, lost = chaos.site("store.write.slow"), chaos.site("store.lease.lost")
print([slow.fires() for _ in range(50)], [lost.fires() for _ in range(50)])
"""


def test_the_environment_turns_sites_on_and_the_report_is_logged_at_the_end(elsewhere: Elsewhere) -> None:
    settings = {"ATOLL_TESTING_SITES": "store.write.slow=1:0.5,*=0:1", "ATOLL_TESTING_SEED": "3"}
    ended = elsewhere(PROGRAM, **settings)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("True") not in {0, 50}
    lines = ended.stderr.splitlines()
    assert lines[0] == (
        "Fault sites are on: store.write.slow=1.0:0.5,*=0.0:1.0, seed 3; set ATOLL_TESTING_SEED=3 to repeat, "
        "unset ATOLL_TESTING_SITES to end this"
    )
    assert "Fault sites, seed 3: 2 declared, 2 reached, 1 activated, 1 fired." in lines
    again = elsewhere(PROGRAM, PYTHONHASHSEED="7", **settings)
    assert again.stdout == ended.stdout


def test_without_the_variable_nothing_fires_and_nothing_is_said(elsewhere: Elsewhere) -> None:
    for settings in ({}, {"ATOLL_TESTING_SITES": " "}):
        ended = elsewhere(PROGRAM, **settings)
        assert "True" not in ended.stdout
        assert ended.stderr == ""


def test_a_block_in_code_beats_the_environment(elsewhere: Elsewhere) -> None:
    program = """
from atoll import chaos
site = chaos.site("a")
assert site.fires()
with chaos.sites(activation=0) as run:
    assert run.seed == 4, "the environment's"
    assert not site.fires()
    assert chaos.site("b"), "declared within"
    assert not site.fires()
assert site.fires()
"""
    ended = elsewhere(program, ATOLL_TESTING_SITES="*=1:1", ATOLL_TESTING_SEED="4")
    assert ended.returncode == 0, ended.stderr


def test_a_change_of_the_environment_holds_from_the_next_declaration_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_TESTING_SEED", "5")
    monkeypatch.setenv("ATOLL_TESTING_SITES", "test.write.slow=1:1")
    assert chaos.site("test.write.slow").fires()
    assert not LOST.fires(), "no rule names it"
    monkeypatch.setenv("ATOLL_TESTING_SITES", "test.write.slow=0:0")
    assert not chaos.site("test.write.slow").fires()
    monkeypatch.delenv("ATOLL_TESTING_SITES")
    chaos.site("test.write.slow")
    assert chaos.faults().seed is None


@pytest.mark.parametrize(
    ("text", "column", "problem", "remedy"),
    [
        ("store.write.slow", 17, "the '=' ", "Write store.write.slow=0.25:0.25."),
        ("a=0.25", 7, "the ':' between activation and firing is missing", "Write a=0.25:0.25."),
        ("a=0.25:", 8, "the firing is missing", "Write a=0.25:0.25."),
        ("a=1:1,b=25%:1", 9, "the activation '25%' is in per cent", "Write 0.25 for 25%."),
        ("a=25:1", 3, "the activation '25' is not a probability from 0 to 1", "Write a=0.25:0.25."),
        ("a=1:-1", 5, "the firing '-1' is not a probability", "Write a=0.25:0.25."),
        ("a=1:nan", 5, "the firing 'nan' is not a probability", "Write a=0.25:0.25."),
        ("a=1:1_0", 5, "the firing '1_0' is not a probability", "Write a=0.25:0.25."),
        ("store.*=1:1", 1, "'store.*' has a '*' in it", "Write the name in full"),
        ("a=1:1,a=1:1", 7, "'a' has a rule already, in entry 1", "Keep one"),
        ("a=1:1,", 7, "the entry is empty", "Remove the comma."),
    ],
)
def test_a_malformed_setting_stops_the_program_where_a_site_is_declared(
    monkeypatch: pytest.MonkeyPatch, text: str, column: int, problem: str, remedy: str
) -> None:
    monkeypatch.setenv("ATOLL_TESTING_SITES", text)
    with pytest.raises(ChaosConfigurationError) as raised:
        chaos.site("test.write.slow")
    message = str(raised.value)
    assert message.startswith("ATOLL_TESTING_SITES, entry ")
    assert raised.value.column == column
    assert problem in message
    assert remedy in message


@given(st.text(st.characters(categories=["L"]), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_rule_reads_what_it_writes(name: str, activation: float, firing: float) -> None:
    rule = SiteRule(name, activation, firing)
    with chaos.sites(seed=1, rules=[rule]) as run:
        assert run.rules[name] == rule
