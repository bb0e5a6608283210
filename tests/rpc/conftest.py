"""Runs coroutine tests on asyncio's loop and on uvloop, and looks after each test for what it left behind."""

import asyncio
import gc
import importlib.util
import inspect
import logging
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atoll import IoContext, IoContextThread

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if importlib.util.find_spec("uvloop") is not None:
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop

# A free-threaded build, and no second interpreter to borrow from.
if importlib.util.find_spec("grpc") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.rpc.support import ClientProcess, generated

    @pytest.fixture(scope="session")
    def client() -> Iterator[ClientProcess]:
        """A stock client in another process."""
        process = ClientProcess()
        yield process
        process.close()

    def pytest_sessionfinish() -> None:
        shutil.rmtree(generated, ignore_errors=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if inspect.iscoroutinefunction(metafunc.function) and "loop_factory" not in metafunc.fixturenames:
        metafunc.fixturenames.append("loop_factory")
    if "loop_factory" in metafunc.fixturenames:
        metafunc.parametrize("loop_factory", list(LOOPS.values()), ids=list(LOOPS))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}

    async def within_time() -> None:
        async with asyncio.timeout(30):
            await pyfuncitem.obj(**arguments)

    factory: Any = pyfuncitem.callspec.params["loop_factory"]
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(within_time())
    return True


@pytest.fixture
def new_loop(request: pytest.FixtureRequest) -> Iterator[Callable[..., IoContext]]:
    """Starts loops on threads of their own, and stops them at the end."""
    threads = []
    factory = request.node.callspec.params["loop_factory"]

    def start(name: str, **options: Any) -> IoContext:
        thread = IoContextThread(name, loop_factory=factory, **options)
        thread.start()
        threads.append(thread)
        return thread.io_context

    yield start
    for thread in threads:
        thread.stop()


class Log(logging.Handler):
    """What was logged at WARNING or above; a test takes out what it expects."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.name}: {record.getMessage()}"
        if record.exc_info is not None and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self.lines.append(text)

    def take(self, text: str) -> list[str]:
        """Takes out the lines that contain `text`."""
        found = [line for line in self.lines if text in line]
        self.lines = [line for line in self.lines if text not in line]
        return found


IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def _network_threads() -> int:
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum(name.startswith("atoll-net") for name in names)


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    """The log, which must be empty at the end: no handler's exception, no destroyed task, no warning of asyncio.

    No network thread may be left, either.
    """
    if IS_FREE_THREADED:
        # There the last test's objects may outlive it, and complain only now.
        gc.collect()
    handler = Log()
    logging.getLogger().addHandler(handler)
    yield handler
    gc.collect()
    logging.getLogger().removeHandler(handler)
    assert handler.lines == []
    assert _network_threads() == 0
