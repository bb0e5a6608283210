"""The fixtures of the pytest plugin: loops, a clock, and what handlers raised."""

import pytest
from tests.testing.conftest import Session, text


def test_each_fixture_gives_what_its_name_says(session: Session) -> None:
    code = """
    def test_context(io_context):
        io_context.post(print, "ran")
        assert io_context.run() == 1

    def test_thread(io_context_thread):
        name = io_context_thread.io_context.submit(lambda: threading.current_thread().name)
        assert name.result(20) == "io_context_thread"

    def test_clock(manual_clock):
        manual_clock.advance(60)
        assert manual_clock.now() == 60
    """
    session.run(code).assert_outcomes(passed=3)


def test_a_pool_has_two_loops_or_as_many_as_its_parameter_says(session: Session) -> None:
    pytest.importorskip("atoll.loop._pool")
    code = """
    def test_two(io_context_pool):
        assert len(io_context_pool.all()) == 2

    @pytest.mark.parametrize("io_context_pool", [3], indirect=True)
    def test_three(io_context_pool):
        names = [it.submit(lambda: threading.current_thread().name).result(20) for it in io_context_pool.all()]
        assert names == ["io_context_pool-0", "io_context_pool-1", "io_context_pool-2"]
    """
    session.run(code).assert_outcomes(passed=2)


def test_what_the_fixtures_give_is_closed_at_the_end_of_the_test(session: Session) -> None:
    code = """
    kept = []

    def test_first(io_context, io_context_thread):
        kept.extend([io_context, io_context_thread.io_context])

    def test_second():
        for io_context in kept:
            with pytest.raises(atoll.errors.LoopClosedError):
                io_context.post(print)
    """
    session.run(code).assert_outcomes(passed=2)


def test_loops_take_their_time_from_the_manual_clock_that_a_test_asks_for(session: Session) -> None:
    code = """
    @pytest.mark.parametrize("fixture", ["io_context", "io_context_thread"])
    def test_an_hour(request, fixture, manual_clock):
        made = request.getfixturevalue(fixture)
        io_context = getattr(made, "io_context", made)
        future = io_context.submit(io_context.now, delay=3600)
        manual_clock.advance(3600)
        assert future.result(20) == 3600
    """
    session.run(code).assert_outcomes(passed=2)


def test_a_handler_that_raises_fails_the_test(session: Session) -> None:
    code = """
    def test_it(io_context):
        io_context.post(lambda: 1 / 0, name="divide")
        io_context.run()
    """
    result = session.run(code)
    result.assert_outcomes(passed=1, errors=1)
    assert "handlers raised what the test did not expect" in text(result)
    assert "ZeroDivisionError: division by zero" in text(result)
    assert "raised by the handler divide on the loop 'io_context'" in text(result)


def test_a_handler_may_raise_what_the_test_takes(session: Session) -> None:
    code = """
    def test_it(io_context, io_context_thread, handler_errors):
        io_context.post(lambda: 1 / 0, name="divide")
        io_context.run()
        assert [error.handler for error in handler_errors] == ["divide"]
        assert "by zero" in str(handler_errors.take(ZeroDivisionError, match="zero"))
        assert len(handler_errors) == 0
        io_context_thread.io_context.post(int, "no number")
        io_context_thread.io_context.submit(print).result(20)
        handler_errors.take(ValueError)

    def test_wrong_kind(io_context, handler_errors):
        io_context.post(lambda: 1 / 0, name="divide")
        io_context.run()
        with pytest.raises(AssertionError, match="no handler raised ValueError; .* divide: ZeroDivision"):
            handler_errors.take(ValueError)
        handler_errors.take(ArithmeticError)

    def test_loop_of_its_own(handler_errors):
        io_context = atoll.IoContext("own", exception_hook=handler_errors.hook)
        io_context.post(int, "no number")
        io_context.run()
        io_context.close()
        handler_errors.take(ValueError, match="no number")
    """
    session.run(code).assert_outcomes(passed=3)
