"""Loops that a test session starts and does not stop are errors that name who started them."""

import pytest
from tests.testing.conftest import Session, text


def test_a_fixture_that_leaves_its_loop_running_is_an_error_that_names_both(session: Session) -> None:
    code = """
    kept = []

    @pytest.fixture
    def service():
        thread = atoll.IoContextThread("nodes")
        thread.start()
        kept.append(thread)

    def test_it(service):
        pass

    def test_another():
        kept[0].join(20)
    """
    result = session.run(code)
    result.assert_outcomes(passed=2, errors=1)
    assert "the fixture 'service' started the loop 'nodes' and did not stop it: stop it after the `yield`" in text(
        result
    )


def test_the_fixture_that_started_a_loop_is_named_not_the_one_that_asked_for_it(session: Session) -> None:
    code = """
    kept = []

    @pytest.fixture
    def inner():
        for name in ("b", "a"):
            kept.append(atoll.IoContextThread(name))
            kept[-1].start()

    @pytest.fixture
    def outer(request):
        request.getfixturevalue("inner")

    def test_it(outer):
        pass
    """
    result = session.run(code)
    result.assert_outcomes(passed=1, errors=1)
    assert "the fixture 'inner' started the loops 'a', 'b' and did not stop it" in text(result)


def test_a_loop_may_be_stopped_by_the_fixture_that_starts_loops_for_others(session: Session) -> None:
    code = """
    @pytest.fixture
    def start():
        threads = []

        def start(name):
            threads.append(atoll.IoContextThread(name))
            threads[-1].start()
            return threads[-1].io_context

        yield start
        for thread in threads:
            thread.stop()

    @pytest.fixture
    def nodes(start):
        return start("nodes")

    def test_it(nodes):
        pass
    """
    session.run(code).assert_outcomes(passed=1)


@pytest.mark.parametrize("place", ["fixture", "test"])
def test_what_is_left_at_the_end_of_the_session_fails_it_and_is_named(session: Session, place: str) -> None:
    code = """
    kept = []

    def start():
        kept.append(atoll.IoContextThread("nodes"))
        kept[-1].start()

    @pytest.fixture(scope="module")
    def of_the_module():
        start()

    def test_fixture(of_the_module):
        pass

    def test_test():
        start()
    """
    result = session.run(code, "-k", f"test_{place}")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    starter = "the fixture 'of_the_module'" if place == "fixture" else "a test"
    assert "loops that nobody stopped" in text(result)
    assert f"{starter} started the loop 'nodes' and did not stop it" in text(result)
