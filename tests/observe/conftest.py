"""Loops for the tests of this folder: some at work, some stuck."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest

import atoll

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30.0


def fail() -> None:
    raise ValueError("as it should")


async def two_steps() -> None:
    await asyncio.sleep(0.001)


@pytest.fixture
def worked() -> Iterator[list[atoll.IoContext]]:
    """Two loops that have done something of each kind, and rest."""
    contexts = []
    for name in ("node_manager", "kv_manager"):
        io_context = atoll.IoContext(name, exception_hook=lambda *_: None)
        for _ in range(3):
            io_context.post(time.sleep, 0.001, name="NodeService.Register")
        io_context.post(fail, name='fails "loudly"')
        io_context.post(two_steps, name="two_steps")
        io_context.run()
        io_context.post(print, name="waits", lane="bulk")
        io_context.post(print, name="late", delay=3600.0)
        contexts.append(io_context)
    yield contexts
    for io_context in contexts:
        io_context.close()


@pytest.fixture
def stuck() -> Iterator[list[atoll.IoContext]]:
    """Two loops on threads of their own, each blocked inside a handler until the test ends."""
    release = threading.Event()
    threads = [atoll.IoContextThread(name) for name in ("first", "second")]
    for thread in threads:
        entered = threading.Event()
        thread.start()
        thread.io_context.post(_block, entered, release, name="stuck")
        assert entered.wait(PATIENCE)
        thread.io_context.post(print, name="waits")
    yield [thread.io_context for thread in threads]
    release.set()
    for thread in threads:
        thread.stop()


def _block(entered: threading.Event, release: threading.Event) -> None:
    entered.set()
    release.wait(PATIENCE)
