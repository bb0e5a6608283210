"""`serve` works wherever asyncio runs: pytest-asyncio, AnyIO's plugin, plain `asyncio.run`."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("grpc")
import grpc.aio
import pytest_asyncio
from tests.testing.services import Store, get, put

from atoll.errors import NotOnLoopError
from atoll.testing import serve

pytestmark = pytest.mark.whole_grpcio


@pytest_asyncio.fixture
async def channel_of_a_fixture() -> AsyncIterator[grpc.aio.Channel]:
    async with serve(Store) as channel:
        yield channel


@pytest.mark.asyncio
async def test_a_fixture_of_pytest_asyncio_can_serve(channel_of_a_fixture: grpc.aio.Channel) -> None:
    await put(channel_of_a_fixture, b"k", b"v")
    assert await get(channel_of_a_fixture, b"k") == b"v"


@pytest.mark.anyio
class TestUnderAnyIo:
    @pytest.fixture(params=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
        if request.param == "uvloop" and importlib.util.find_spec("uvloop") is None:
            pytest.skip("uvloop is an extra")
        return "asyncio", {"use_uvloop": request.param == "uvloop"}

    @pytest.fixture
    async def channel(self, anyio_backend: Any) -> AsyncIterator[grpc.aio.Channel]:  # noqa: ARG002 - it makes AnyIO run the fixture
        async with serve(Store) as channel:
            yield channel

    async def test_a_fixture_of_anyio_can_serve(self, channel: grpc.aio.Channel) -> None:
        await put(channel, b"k", b"v")
        assert await get(channel, b"k") == b"v"


def test_plain_asyncio_can_serve_time_and_again() -> None:
    async def main() -> bytes:
        async with serve(Store) as channel:
            await put(channel, b"k", b"v")
            return await get(channel, b"k")

    assert [asyncio.run(main()) for _ in range(3)] == [b"v"] * 3


def test_without_an_asyncio_loop_it_says_so() -> None:
    with pytest.raises(NotOnLoopError):
        serve(Store).__aenter__().send(None)
