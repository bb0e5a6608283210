"""Which CPUs a loop's thread runs on.

Threads that a bound thread starts inherit its CPUs, as Linux has it. macOS can't bind a thread at all: there a loop
that asks for it runs unbound and says so, so that what is written for the servers can be developed on a laptop.
"""

import logging
import os
import sys
from collections.abc import Iterable

_logger = logging.getLogger("atoll.loop")


def usable_cpus() -> frozenset[int]:
    """The numbers of the CPUs that the process may use: fewer than the machine has under taskset or in a container."""
    if sys.platform == "linux":
        # The main thread's: the calling one may be bound itself.
        return frozenset(os.sched_getaffinity(os.getpid()))
    else:  # noqa: RET505 - mypy leaves out a branch for another system, not what follows one
        return frozenset(range(os.cpu_count() or 1))


def cpu_set(cpus: Iterable[int]) -> frozenset[int]:
    """`cpus` as a set.

    Raises:
        ValueError: When it is empty, or names what is no CPU that this process may use; the message lists those.
    """
    usable = usable_cpus()
    listed = f"this process may use {numbers(usable)}"
    if isinstance(cpus, (str, bytes)) or not isinstance(cpus, Iterable):
        raise ValueError(f"cpu_affinity={cpus!r} is no set of CPU numbers, such as {{0}}; {listed}")  # noqa: TRY004 - as for all settings
    given = list(cpus)
    if not given:
        raise ValueError(f"cpu_affinity={cpus!r} leaves the loop no CPU: leave it out, or name some; {listed}")
    for cpu in given:
        if isinstance(cpu, bool) or not isinstance(cpu, int):
            raise ValueError(f"cpu_affinity: {cpu!r} is no CPU number; {listed}")  # noqa: TRY004 - as for all settings
    if unknown := sorted(set(given) - usable):
        raise ValueError(f"cpu_affinity: this process has no CPU {numbers(unknown)}; it may use {numbers(usable)}")
    return frozenset(given)


def numbers(cpus: Iterable[int]) -> str:
    """CPU numbers as people write them: `0-3, 8`."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def bind_this_thread(loop_name: str, cpus: frozenset[int]) -> None:
    """Binds the calling thread, the one of loop `loop_name`, to `cpus`.

    Raises:
        OSError: When the process may not use any of them any more.
    """
    if sys.platform != "linux":
        _logger.warning(
            "loop %s is not bound to CPU %s: this system can't bind threads to CPUs", loop_name, numbers(cpus)
        )
        return
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise OSError(
            error.errno,
            f"loop {loop_name!r} can't run on CPU {numbers(cpus)}: this process may use {numbers(usable_cpus())}",
        ) from None
