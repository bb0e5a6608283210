"""The pytest plugin: fixtures for loops, a clock, and delays that come from a seed. Switch it off with `-p no:atoll`.

| fixture | what it gives |
|---|---|
| `io_context` | an `IoContext` that does not run; closed at the end |
| `io_context_thread` | an `IoContextThread` that runs; stopped at the end |
| `io_context_pool` | an `IoContextPool` of two loops that runs; stopped at the end |
| `manual_clock` | a `ManualClock`, from which the loops above take their time in a test that asks for it as well |
| `handler_errors` | what handlers raised on the loops of these fixtures; what the test does not take fails it |
| `chaos` | delays, from a seed, for the handlers of every loop that the test makes |

A failed test with `chaos` reports its seed and how to run it again. `--atoll-seed=N` gives a seed back,
`--atoll-seeds=100` runs each such test under a hundred. The marker
`@pytest.mark.atoll_chaos("Heartbeat=0:2000,*=0:100")` says what is delayed, in microseconds, and asks for the fixture.

A fixture that starts a loop, a pool or a provider and does not stop it is an error that names it.

The fixtures are plain functions, so they work in plain tests and under pytest-asyncio and AnyIO alike. pytest imports
this at its start: what costs time, grpcio above all, is imported by the fixtures that need it.
"""

import argparse
import inspect
import os
from collections.abc import Collection, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

from atoll.loop import IoContext, IoContextThread
from atoll.testing._handler_errors import HandlerErrors
from atoll.testing._loop_watch import LoopWatch
from atoll.testing._manual_clock import ManualClock

if TYPE_CHECKING:
    from atoll.loop import IoContextPool
    from atoll.testing._chaos import Chaos

_SEED_VARIABLE: Final = "ATOLL_TESTING_SEED"
_DELAY_VARIABLE: Final = "ATOLL_TESTING_DELAY_US"
# Short enough to be typed from a screen.
_DRAWN_BYTES: Final = 4
_POOL_SIZE: Final = 2

_chaos_of_test = pytest.StashKey["Chaos"]()
_watch = pytest.StashKey[LoopWatch]()
_left = pytest.StashKey[str]()


# ------------------------------------------------------------------------------------------------------------- options


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options."""
    group = parser.getgroup("atoll", "delays in the handlers of Atoll's loops (the fixture chaos)")
    group.addoption(
        "--atoll-seed",
        type=_whole_number,
        metavar="N",
        help=f"the seed of the delays; unless given it is that of {_SEED_VARIABLE}, or drawn",
    )
    group.addoption(
        "--atoll-seeds",
        type=_whole_number,
        metavar="COUNT",
        help="run each test with the fixture chaos under COUNT seeds, from --atoll-seed on, or from 0",
    )


def _whole_number(text: str) -> int:
    """A number from 0, as an option gives it."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def pytest_configure(config: pytest.Config) -> None:
    """Says what the marker means, and decides on the seed, which the workers of pytest-xdist are told as an option."""
    config.addinivalue_line(
        "markers",
        "atoll_chaos(delays): delay handlers in this test, such as 'Heartbeat=0:2000,*=0:100', in microseconds, from a "
        "seed; see the fixture chaos",
    )
    config.stash[_watch] = LoopWatch()
    option = config.option
    if option.atoll_seed is None and (text := os.environ.get(_SEED_VARIABLE, "").strip()):
        try:
            option.atoll_seed = _whole_number(text)
        except argparse.ArgumentTypeError:
            raise pytest.UsageError(f"{_SEED_VARIABLE}={text}: a seed is a whole number from 0, such as 1") from None
    if option.atoll_seed is None:
        # Tests that run under many seeds keep their names from one session to the next; one seed differs.
        option.atoll_seed = 0 if option.atoll_seeds else int.from_bytes(os.urandom(_DRAWN_BYTES), "big")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Says under which seeds tests run, where somebody asked for many."""
    count = config.option.atoll_seeds
    return f"atoll: tests with delays run under seeds {_seeds(config)[0]} to {_seeds(config)[-1]}" if count else None


def _seeds(config: pytest.Config) -> range:
    first: int = config.option.atoll_seed
    return range(first, first + (config.option.atoll_seeds or 1))


# --------------------------------------------------------------------------------------------------------------- chaos


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> None:
    """Has `chaos` set up before the fixtures that a test names beside it, so that their loops are delayed, too."""
    if not (isinstance(collector, pytest.Module | pytest.Class) and collector.istestfunction(obj, name)):
        return
    function: Any = getattr(obj, "__func__", obj)
    marks = getattr(function, "pytestmark", ())
    marked = any(mark.name == "atoll_chaos" for mark in marks) or collector.get_closest_marker("atoll_chaos")
    if marked or "chaos" in _parameters(function):
        pytest.mark.usefixtures("chaos")(function)


def _parameters(function: Any) -> Collection[str]:  # noqa: ANN401 - whatever a module calls a test
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return ()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test under many seeds, unless it says under which it runs."""
    if "chaos" not in metafunc.fixturenames or not metafunc.config.option.atoll_seeds:
        return
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs["argnames"]
        if "chaos" in (names.replace(" ", "").split(",") if isinstance(names, str) else names):
            return
    seeds = _seeds(metafunc.config)
    values = [_OptionsSeed(seed) for seed in seeds]
    metafunc.parametrize("chaos", values, indirect=True, ids=[f"seed={seed}" for seed in seeds])


class _OptionsSeed(int):
    """A seed that the options give a test, which does not give it itself."""


@pytest.fixture
def chaos(request: pytest.FixtureRequest) -> "Iterator[Chaos]":
    """Delays the handlers of every loop that the test makes, from a seed that is reported when the test fails.

    What is delayed is said by `@pytest.mark.atoll_chaos("Heartbeat=0:2000,*=0:100")`, else by ATOLL_TESTING_DELAY_US,
    else each handler by up to a millisecond. A parameter, given indirectly, is the seed.
    """
    from atoll.testing._chaos import DEFAULT_DELAYS, Chaos  # noqa: PLC0415 - for tests that ask for it

    marker = request.node.get_closest_marker("atoll_chaos")
    if marker is not None and not (len(marker.args) == 1 and isinstance(marker.args[0], str) and not marker.kwargs):
        pytest.fail(
            'write the delays into the marker: @pytest.mark.atoll_chaos("Heartbeat=0:2000,*=0:100")', pytrace=False
        )
    delays = marker.args[0] if marker else os.environ.get(_DELAY_VARIABLE, "").strip() or DEFAULT_DELAYS
    made = Chaos(delays, getattr(request, "param", request.config.option.atoll_seed))
    request.node.stash[_chaos_of_test] = made
    with made.active():
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the seed to the report of a test that failed."""
    report = yield
    made = item.stash.get(_chaos_of_test, None)
    if report.failed and made is not None:
        again = f"pytest {_quoted(item.nodeid)}{_seed_options(item, made)}"
        text = f"seed {made.seed}, delays {made.injector} (microseconds)\n{made.report()}\nto run it again: {again}"
        report.sections.append(("atoll chaos", text))
    return report


def _quoted(nodeid: str) -> str:
    import shlex  # noqa: PLC0415 - when a test has failed

    return shlex.quote(nodeid)


def _seed_options(item: pytest.Item, made: "Chaos") -> str:
    """The options that give a test its seed; none where the test says the seed itself."""
    parameter = getattr(getattr(item, "callspec", None), "params", {}).get("chaos")
    if isinstance(parameter, _OptionsSeed):
        return f" --atoll-seed={made.seed} --atoll-seeds=1"
    return f" --atoll-seed={made.seed}" if parameter is None else ""


# --------------------------------------------------------------------------------------------------------------- loops


@pytest.fixture
def handler_errors() -> Iterator[HandlerErrors]:
    """What handlers raised on the loops of the fixtures, and of those that have its `hook` as their `exception_hook`.

    At the end, what the test has not taken with `handler_errors.take(ValueError)` is raised.
    """
    errors = HandlerErrors()
    yield errors
    errors.check()


@pytest.fixture
def manual_clock() -> ManualClock:
    """Time that stands still until `manual_clock.advance(seconds)`. The other fixtures' loops take theirs from it."""
    return ManualClock()


def _options(request: pytest.FixtureRequest, errors: HandlerErrors) -> dict[str, Any]:
    """The settings of a fixture's loop: what the test asks for beside it."""
    options: dict[str, Any] = {"exception_hook": errors.hook}
    if "manual_clock" in request.fixturenames:
        options["clock"] = request.getfixturevalue("manual_clock")
    if "chaos" in request.fixturenames:
        options["seed"] = request.getfixturevalue("chaos").seed
    return options


@pytest.fixture
def io_context(request: pytest.FixtureRequest, handler_errors: HandlerErrors) -> Iterator[IoContext]:
    """An `IoContext` that does not run: `run()`, `poll()` or a `manual_clock` runs what is posted, on this thread.

    Closed at the end.
    """
    made = IoContext("io_context", **_options(request, handler_errors))
    yield made
    made.close()


@pytest.fixture
def io_context_thread(request: pytest.FixtureRequest, handler_errors: HandlerErrors) -> Iterator[IoContextThread]:
    """An `IoContextThread` that runs; its loop is `io_context_thread.io_context`. Stopped at the end."""
    with IoContextThread("io_context_thread", **_options(request, handler_errors)) as made:
        yield made


@pytest.fixture
def io_context_pool(request: pytest.FixtureRequest, handler_errors: HandlerErrors) -> "Iterator[IoContextPool]":
    """An `IoContextPool` that runs, of two loops unless its parameter, given indirectly, says how many.

    Stopped at the end.
    """
    from atoll.loop import IoContextPool  # noqa: PLC0415 - for tests that ask for it

    size = getattr(request, "param", _POOL_SIZE)
    with IoContextPool(size, "io_context_pool", **_options(request, handler_errors)) as made:
        yield made


# ------------------------------------------------------------------------------------------- loops that nobody stopped


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(request: pytest.FixtureRequest) -> Generator[None, object, object]:
    """Notes which loops a fixture starts."""
    watch = request.config.stash[_watch]
    with watch.fixture(request.fixturename or "", request.node if request.scope == "function" else None):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Looks, when all fixtures of a test have ended, whether their loops have been stopped."""
    result = yield
    # Not at the end of the fixture that started it: what it started it with may be the one to stop it.
    if left := item.config.stash[_watch].left_by(item):
        pytest.fail(
            f"{left}: stop it after the `yield`, or start it in a `with` block around the `yield`", pytrace=False
        )
    return result


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Looks which loops are left: those of fixtures of a wider scope, and those of tests."""
    left = session.config.stash[_left] = session.config.stash[_watch].left()
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Names what is left."""
    if left := config.stash.get(_left, ""):
        terminalreporter.section("atoll: loops that nobody stopped", red=True, bold=True)
        terminalreporter.line(
            f"{left}: start loops, pools and providers in a `with` block, or stop them in a fixture after its `yield`"
        )
