"""What a forked child may do with its parent's loops: nothing, and that at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILD = """
import gc, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process with threads
import atoll
from atoll.errors import ForkedError

thread = atoll.IoContextThread("parents")
thread.start()
loop = thread.io_context
bound = loop.bind(print)
guard = loop.work_guard()
future = loop.submit(lambda: None, delay=3600)
pid = os.fork()
if pid == 0:
    tries = {
        "post": lambda: loop.post(print),
        "delayed": lambda: loop.post(print, delay=1),
        "submit": lambda: loop.submit(print),
        "dispatch": lambda: loop.dispatch(print),
        "bound": bound,
        "run": atoll.IoContext.run.__get__(loop),
        "stop": loop.stop,
        "stats": loop.stats,
        "delays": lambda: loop.inject_delays(None),
    }
    seen = []
    for name, use in tries.items():
        try:
            use()
        except ForkedError as error:
            assert "'parents'" in str(error) and "after the fork" in str(error), error
            seen.append(name)
    guard.reset()
    future.cancel()
    loop.close()
    del thread, loop, bound, guard, future, tries, use
    gc.collect()
    own = atoll.IoContextThread("childs")
    with own:
        seen.append(own.io_context.submit(lambda: "own").result(30))
        seen.append(own.io_context.submit(lambda: "delayed", delay=0.001).result(30))
    print(*seen, flush=True)
    sys.exit(0)
status = os.waitpid(pid, 0)[1]
assert loop.submit(lambda: "parent").result(30) == "parent", "the parent goes on"
assert not future.cancelled()
guard.reset()
thread.stop()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_a_forked_child_is_told_what_to_do_and_its_parent_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = "post delayed submit dispatch bound run stop stats delays own delayed"
    assert done.stdout.split() == expected.split()
