"""`python -m examples.ordering_bug --seed 7`: see README.md."""

import argparse
import asyncio
import logging
import sys

from examples.ordering_bug.scenario import run_in_virtual_time, run_on_threads
from examples.ordering_bug.sessions import FixedSessions, Sessions


def main() -> int:
    """Runs the command; returns 1 when a client has lost its session."""
    parser = argparse.ArgumentParser(prog="python -m examples.ordering_bug")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--seed", type=int, help="one run with the delays of this seed, event by event")
    how.add_argument("--seeds", type=int, metavar="COUNT", help="one run for each seed from 0")
    how.add_argument("--without-delays", type=int, metavar="COUNT", help="so many runs without delays")
    how.add_argument("--threads", type=int, metavar="COUNT", help="so many runs on real threads, in real time")
    parser.add_argument("--fixed", action="store_true", help="with the bug fixed")
    arguments = parser.parse_args()
    sessions_class = FixedSessions if arguments.fixed else Sessions
    logging.getLogger("atoll.chaos").disabled = True  # it says for every handler that it is delayed

    if arguments.seed is not None:
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
        kept = run_in_virtual_time(arguments.seed, sessions_class=sessions_class)
        print("The client has its session." if kept else "LOST: the client's lease is alive, and its session is gone.")
        return 0 if kept else 1
    if arguments.seeds is not None:
        lost = [seed for seed in range(arguments.seeds) if not run_in_virtual_time(seed, sessions_class=sessions_class)]
        which = f": {', '.join(map(str, lost))}" if lost else ""
        print(f"{len(lost)} of {arguments.seeds} seeds lose the session{which}")
        return 1 if lost else 0
    if arguments.threads is not None:
        count = arguments.threads
        kept_all = [asyncio.run(run_on_threads(fixed=arguments.fixed)) for _ in range(count)]
    else:
        count = arguments.without_delays
        kept_all = [run_in_virtual_time(sessions_class=sessions_class) for _ in range(count)]
    print(f"{kept_all.count(False)} of {count} runs lose the session")
    return 1 if False in kept_all else 0


if __name__ == "__main__":
    sys.exit(main())
