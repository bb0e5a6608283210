"""The pytest plugin beside others: pytest-asyncio, AnyIO's, and none; and what its own import costs."""

import subprocess
import sys

import pytest
from tests.testing.conftest import Session, text

COROUTINES = """
import pytest_asyncio
@pytest.fixture
def anyio_backend():
    return "asyncio"

{fixture}
async def guest():
    yield atoll.IoContext.current()

{mark}
async def test_guest(guest):
    assert await guest.submit(lambda: threading.current_thread().name) == threading.current_thread().name

{mark}
async def test_thread(io_context_thread):
    assert await io_context_thread.io_context.submit(lambda: 5) == 5

{mark}
async def test_clock(io_context_thread, manual_clock):
    hour = io_context_thread.io_context.submit(asyncio.sleep, 3600, 5)
    manual_clock.advance(3600)
    assert await hour == 5

{mark}
@pytest.mark.atoll_chaos("lambda=7000:7000")
async def test_chaos(manual_clock, io_context_thread):
    done = io_context_thread.io_context.submit(lambda: 5, name="lambda")
    manual_clock.advance(0.006)
    assert not done.done()
    manual_clock.advance(0.001)
    assert await done == 5

{mark}
async def test_provider():
    class Module: ...

    class Placement(atoll.IoContextPolicy[Module]):
        module_io_context = atoll.dedicated(Module)

    async with atoll.IoContextProvider(Placement) as provider:
        await provider.create(Module)
"""


@pytest.mark.parametrize(
    ("mark", "fixture", "arguments"),
    [
        ("@pytest.mark.asyncio", "@pytest_asyncio.fixture", ["--asyncio-mode=strict"]),
        ("", "@pytest.fixture", ["--asyncio-mode=auto"]),
        ("@pytest.mark.anyio", "@pytest.fixture", ["--asyncio-mode=strict"]),
        ("@pytest.mark.anyio", "@pytest.fixture", ["-p", "no:asyncio"]),
        ("@pytest.mark.asyncio", "@pytest_asyncio.fixture", ["-p", "no:anyio"]),
    ],
    ids=["asyncio-strict", "asyncio-auto", "anyio", "anyio-alone", "asyncio-alone"],
)
def test_coroutine_tests_use_the_fixtures_under(
    session: Session, mark: str, fixture: str, arguments: list[str]
) -> None:
    if "no:asyncio" in arguments:
        session.configure()
    code = COROUTINES.format(mark=mark, fixture=fixture)
    session.run(code, "--atoll-seeds=2", *arguments).assert_outcomes(passed=6)


def test_the_plugin_can_be_switched_off(session: Session) -> None:
    result = session.run("def test_it(chaos):\n    pass\n", "-p", "no:atoll")
    result.assert_outcomes(errors=1)
    assert "fixture 'chaos' not found" in text(result)


STARTED = """
import sys
import pytest

class Look:
    def pytest_collection(self):
        for name in ("grpc", "uvloop", "atoll.chaos._sites", "atoll.testing._chaos", "google.protobuf"):
            print(name, name in sys.modules)

sys.exit(pytest.main(["-q", "--co", "-s", "-p", "no:cacheprovider", "-W", "error", *sys.argv[1:]], plugins=[Look()]))
"""


@pytest.mark.usefixtures("session")
def test_starting_pytest_imports_no_grpcio_and_warns_of_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it():\n    import atoll, atoll_control\n")
    ended = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "grpc False" in ended.stdout
    assert "uvloop False" in ended.stdout
    assert "google.protobuf False" in ended.stdout
