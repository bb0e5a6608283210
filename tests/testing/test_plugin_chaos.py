"""Delays in tests: from a seed that is reported, given back, and varied."""

import re

import pytest
from tests.testing.conftest import Session, text

DELAYED = """
def delays_of(io_context):
    moments = []

    def note():
        moments.append(io_context.now())
        if len(moments) < 10:
            io_context.post(note, name="Module.note")

    io_context.post(note, name="Module.note")
    return moments

def write(moments):
    with open("seen", "a") as seen:
        print([round(moment * 1e6) for moment in moments], file=seen)

@pytest.mark.atoll_chaos("note=100:5000")
def test_it(io_context, manual_clock):
    moments = delays_of(io_context)
    manual_clock.advance(1)
    write(moments)
    assert len(moments) == 10
    assert 10 * 100e-6 <= moments[-1] <= 10 * 5000e-6
    assert not pathlib.Path("fail").exists()
"""


def written(session: Session) -> list[str]:
    """What the tests of a session have seen, one line for each."""
    return (session.folder / "seen").read_text().splitlines()


def reported_seed(result: pytest.RunResult) -> int:
    found = re.search(r"--+ atoll chaos --+\nseed (\d+), delays note=100:5000 \(microseconds\)", text(result))
    assert found, text(result)
    return int(found[1])


def test_a_failed_test_reports_its_seed_and_the_delays_and_the_seed_given_back_repeats_them(session: Session) -> None:
    (session.folder / "fail").touch()
    result = session.run(DELAYED)
    result.assert_outcomes(failed=1)
    seed = reported_seed(result)
    assert "io_context: Module.note  10 times" in text(result)
    assert f"to run it again: pytest test_it.py::test_it --atoll-seed={seed}" in text(result)
    assert reported_seed(session.again("test_it.py::test_it", f"--atoll-seed={seed}")) == seed
    assert reported_seed(session.again(f"--atoll-seed={seed + 1}")) == seed + 1
    first, again, other = written(session)
    assert first == again != other


def test_a_test_that_passes_says_nothing_of_its_seed(session: Session) -> None:
    result = session.run(DELAYED)
    result.assert_outcomes(passed=1)
    assert "atoll chaos" not in text(result)


def test_without_a_seed_each_session_has_another(session: Session) -> None:
    session.run(DELAYED)
    session.again()
    first, second = written(session)
    assert first != second


def test_the_seed_of_the_environment_is_honoured_and_the_options_comes_first(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    (session.folder / "fail").touch()
    monkeypatch.setenv("ATOLL_TESTING_SEED", "77")
    assert reported_seed(session.run(DELAYED)) == 77
    assert reported_seed(session.again("--atoll-seed=78")) == 78


@pytest.mark.parametrize("seed", ["-1", "x", "1.5"])
def test_a_seed_that_is_none_is_refused_before_any_test_runs(
    session: Session, monkeypatch: pytest.MonkeyPatch, seed: str
) -> None:
    refused = session.run(DELAYED, f"--atoll-seed={seed}")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert f"{seed!r} is not a whole number from 0" in "\n".join(refused.errlines)
    monkeypatch.setenv("ATOLL_TESTING_SEED", seed)
    refused = session.again()
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert "a seed is a whole number from 0" in "\n".join(refused.errlines)


def test_a_test_runs_under_as_many_seeds_as_asked_for(session: Session) -> None:
    result = session.run(DELAYED + "\ndef test_without():\n    pass\n", "-v", "--atoll-seeds=20")
    result.assert_outcomes(passed=21)
    assert "atoll: tests with delays run under seeds 0 to 19" in text(result)
    assert "test_it.py::test_it[seed=0] PASSED" in text(result)
    assert "test_it.py::test_it[seed=19] PASSED" in text(result)
    assert len(set(written(session))) == 20
    (session.folder / "fail").touch()
    result = session.again("--atoll-seeds=3", "--atoll-seed=100")
    result.assert_outcomes(failed=3, passed=1)
    again = "pytest 'test_it.py::test_it[seed=101]' --atoll-seed=101 --atoll-seeds=1"
    assert again in text(result)
    reproduced = session.again("test_it.py::test_it[seed=101]", "--atoll-seed=101", "--atoll-seeds=1")
    reproduced.assert_outcomes(failed=1)


def test_a_test_may_name_its_seeds_itself(session: Session) -> None:
    code = """
    @pytest.mark.parametrize("chaos", [3, 5], indirect=True, ids=str)
    def test_it(chaos):
        assert chaos.seed == 3, chaos
    """
    result = session.run(code, "--atoll-seeds=20")
    result.assert_outcomes(passed=1, failed=1)
    assert "seed 5, delays *=0:1000 (microseconds)\nNo handler was delayed." in text(result)
    assert re.search(r"to run it again: pytest 'test_it.py::test_it\[5\]'$", text(result), flags=re.MULTILINE)


def test_chaos_is_set_up_before_the_fixtures_beside_it_and_delays_loops_that_the_test_makes(session: Session) -> None:
    code = """
    @pytest.fixture
    def own():
        clock = atoll.testing.ManualClock()
        with atoll.IoContextThread("own", clock=clock) as thread:
            yield thread.io_context, clock

    def test_argument(own, chaos):
        io_context, clock = own
        moments = [io_context.submit(io_context.now, name="now") for _ in range(100)]
        clock.advance(1)
        assert 0 < max(moment.result(20) for moment in moments) <= 0.001
        assert chaos.report().count == 100

    class TestMarked:
        pytestmark = pytest.mark.atoll_chaos("now=7000:7000")

        def test_method(self, own):
            io_context, clock = own
            moment = io_context.submit(io_context.now, name="now")
            clock.advance(1)
            assert moment.result(20) == 0.007

        @staticmethod
        def test_static(own):
            TestMarked.test_method(None, own)
    """
    session.run(code).assert_outcomes(passed=3)


def test_chaos_ends_with_its_test(session: Session) -> None:
    code = """
    import os

    def test_first(chaos):
        assert os.environ["ATOLL_TESTING_DELAY_US"] == "*=0:1000"
        assert os.environ["ATOLL_TESTING_SEED"] == str(chaos.seed)

    def test_second():
        assert "ATOLL_TESTING_DELAY_US" not in os.environ
        assert "ATOLL_TESTING_SEED" not in os.environ
    """
    session.run(code).assert_outcomes(passed=2)


def test_delays_come_from_the_environment_where_no_marker_says_them(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOLL_TESTING_DELAY_US", "Heartbeat=5:6")
    code = """
    def test_it(chaos):
        assert str(chaos.injector) == "Heartbeat=5:6"

    @pytest.mark.atoll_chaos("Renew=1:2")
    def test_marked(chaos):
        assert str(chaos.injector) == "Renew=1:2"
    """
    session.run(code).assert_outcomes(passed=2)


def test_a_loop_made_before_the_chaos_can_be_given_its_delays(session: Session) -> None:
    code = """
    @pytest.fixture(scope="module")
    def clock():
        return atoll.testing.ManualClock()

    @pytest.fixture(scope="module")
    def early(clock):
        io_context = atoll.IoContext("early", clock=clock)
        yield io_context
        io_context.close()

    @pytest.mark.atoll_chaos("now=7000:7000")
    @pytest.mark.parametrize("inject", [False, True])
    def test_it(clock, early, chaos, inject):
        if inject:
            chaos.inject(early)
        start = clock.now()
        moment = early.submit(early.now, name="now")
        clock.advance(1)
        assert round(moment.result(0) - start, 6) == (0.007 if inject else 0)
    """
    session.run(code).assert_outcomes(passed=2)


def test_a_loops_source_of_chance_starts_from_the_seed(session: Session) -> None:
    code = """
    def test_it(io_context, chaos):
        assert io_context.random.random() == __import__("random").Random(chaos.seed).random()
    """
    session.run(code).assert_outcomes(passed=1)


@pytest.mark.parametrize("marker", ["atoll_chaos", "atoll_chaos()", "atoll_chaos(5)", "atoll_chaos('a=1:2', seed=5)"])
def test_a_marker_without_delays_is_an_error_that_shows_a_right_one(session: Session, marker: str) -> None:
    result = session.run(f"@pytest.mark.{marker}\ndef test_it():\n    pass\n")
    result.assert_outcomes(errors=1)
    assert '@pytest.mark.atoll_chaos("Heartbeat=0:2000,*=0:100")' in text(result)


def test_malformed_delays_are_an_error_that_points_at_the_mistake(session: Session) -> None:
    result = session.run("@pytest.mark.atoll_chaos('Heartbeat=5')\ndef test_it():\n    pass\n")
    result.assert_outcomes(errors=1)
    assert "ChaosConfigurationError" in text(result)
    assert "Heartbeat=5" in text(result)
