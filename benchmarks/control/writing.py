"""Clients of several servers, checked: ``python -m benchmarks.control.writing ADDRESS [ADDRESS ...]``.

``History`` of ``atoll_control.testing`` is the load. Lines on the standard input: ``after TIME ADDRESS`` waits for the
first write that was acknowledged since a time of the monotonic clock by another server than that one, and ``end`` ends
the load and names what may not be.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from atoll_control.testing.history import History
from benchmarks.control.beating import say

WRITERS: Final = 4
READERS: Final = 1
WRITE_TIMEOUT: Final = 60.0


def main() -> None:
    """Do as the lines on the standard input say, until it ends."""
    with History(sys.argv[1:], writers=WRITERS, readers=READERS) as history:
        say(ready=True)
        for line in sys.stdin:
            match line.split():
                case ["after", then, address]:
                    say(seconds=history.wait_for_write(float(then), WRITE_TIMEOUT, elsewhere_than=address))
                case ["end"]:
                    break
                case _:
                    say(error=f"unknown request: {line.strip()}")
        else:
            os._exit(0)
    writes = len(history.acknowledgements)
    say(problems=history.problems(), writes=writes, reads=history.reads, unknown=history.unknown)
    os._exit(0)


if __name__ == "__main__":
    main()
