"""Keys put into a directory that no server has open: ``python -m benchmarks.control.filling DIRECTORY KEYS``.

They are rows as ``KvManager`` makes them, put through the same store, a thousand per batch. It announces how long that
took.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

from atoll.store import Store
from atoll_control.server.kv_manager import row_key
from atoll_control.server.tables import KV, TABLES
from benchmarks.control.beating import say
from benchmarks.control.requests import NAMESPACE, VALUE, key

BATCH: Final = 1_000


async def fill(directory: str, keys: int) -> float:
    """Puts what is not there yet of so many keys; returns the seconds."""
    started = time.perf_counter()
    store = Store.in_directory(directory, TABLES)
    for begin in range(0, keys, BATCH):
        batch = store.batch()
        for number in range(begin, min(begin + BATCH, keys)):
            batch.put(KV, row_key(NAMESPACE, key(number)), VALUE)
        await store.commit(batch)
    await store.close()
    return time.perf_counter() - started


def main() -> None:
    """Fill, and say how long it took."""
    directory, keys = sys.argv[1:]
    say(seconds=asyncio.run(fill(directory, int(keys))))


if __name__ == "__main__":
    main()
