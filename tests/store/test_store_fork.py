"""What a forked child may do with its parent's store and election: nothing, and that at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CHILD = """
import asyncio, gc, os, sys, warnings, weakref
warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
import atoll.store
from atoll.errors import ForkedError

store = atoll.store.Store.in_memory(["kv"])
store.commit_blocking(store.batch().put("kv", b"a", b"1"))
# Nobody listens there: it stands by.
options = atoll.store.EtcdOptions(endpoints=["http://127.0.0.1:1"])
election = atoll.store.Election.start(options, name="parent", address="127.0.0.1:2")
loop = atoll.IoContext("parents")
callbacks = [lambda _: None, lambda _: None]
subscriptions = [it.subscribe(loop, told) for it, told in zip((store, election), callbacks)]
told = [weakref.ref(it) for it in callbacks]
del callbacks
pid = os.fork()
if pid == 0:
    batch = store.batch().put("kv", b"b", b"2")

    async def commit():
        await store.commit(batch)

    tries = {
        "commit": lambda: asyncio.run(commit()),
        "blocking": lambda: store.commit_blocking(batch),
        "get": lambda: store.get("kv", b"a"),
        "count": lambda: store.count("kv"),
        "owned": lambda: store.owned(b"a"),
        "snapshot": store.snapshot,
        "statistics": store.statistics,
        "subscribe": lambda: store.subscribe(atoll.IoContext("childs"), print),
        "state": lambda: election.state,
        "remaining": lambda: election.remaining,
        "observe": lambda: election.subscribe(atoll.IoContext("childs"), print),
        "resign": election.resign_blocking,
        "in_etcd": lambda: atoll.store.Store.in_etcd(election, ["kv"]),
    }
    seen = []
    for name, use in tries.items():
        try:
            use()
        except ForkedError as error:
            assert "one after the fork" in str(error), error
            seen.append(name)
    store.close_blocking()
    assert len(batch) == 1
    for subscription in subscriptions:
        subscription.close()
    del subscription, subscriptions
    gc.collect()
    assert None not in [it() for it in told], "what would need a lock of the parent's threads is left as it is"
    own = atoll.store.Store.in_memory(["kv"])
    own.commit_blocking(own.batch().put("kv", b"b", b"2"))
    own.close_blocking()
    del store, election
    print(*seen, flush=True)
    sys.exit(0)
status = os.waitpid(pid, 0)[1]
assert store.commit_blocking(store.batch().put("kv", b"b", b"2")).revision == 2, "the parent goes on"
store.close_blocking()
assert election.state.role == "standby"
for subscription in subscriptions:
    subscription.close()
gc.collect()  # without a GIL, functions go when Python looks for garbage
assert [it() for it in told] == [None, None]
election.resign_blocking()
sys.exit(os.waitstatus_to_exitcode(status))
"""
TRIED = ["commit", "blocking", "get", "count", "owned", "snapshot", "statistics", "subscribe"]
TRIED += ["state", "remaining", "observe", "resign", "in_etcd"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_what_to_do_and_its_parent_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == TRIED
