"""`Chaos`: the delays of one test, from one seed.

While it is active, the environment says what the delays are, so that every loop which the test makes has them, in this
process and in those that it starts. Loops that exist already are given them by `inject`. The test's thread enters it.
"""

import contextlib
import os
from collections.abc import Generator, Iterable
from typing import Final

from atoll import chaos
from atoll.loop import IoContext

DEFAULT_DELAYS: Final = "*=0:1000"
DELAY_VARIABLE: Final = "ATOLL_TESTING_DELAY_US"
SEED_VARIABLE: Final = "ATOLL_TESTING_SEED"


class Chaos:
    """Which handlers of a test are delayed, and how long: the value of the fixture `chaos`.

    Args:
        delays: The delays in microseconds, such as `Heartbeat=1000:2000,*=0:100`.
        seed: Where the delays come from. The same seed delays the n-th run of a handler on a loop by the same time.

    Raises:
        ChaosConfigurationError: When one of them is malformed; the message shows where.
    """

    def __init__(self, delays: str, seed: int) -> None:
        self._injector = chaos.DelayInjector.parse(delays, seed=seed)
        self._before = chaos.delays()

    @property
    def seed(self) -> int:
        """The seed; the test may draw from it what else is to be repeated."""
        return self._injector.seed

    @property
    def injector(self) -> chaos.DelayInjector:
        """The delays, as code gives them to a loop."""
        return self._injector

    def inject(self, *io_contexts: IoContext) -> None:
        """Delays the handlers of loops that were made before the chaos was. Any thread."""
        for io_context in io_contexts:
            io_context.inject_delays(self._injector)

    def report(self) -> chaos.DelayReport:
        """Which handlers have been delayed so far, how often and how long."""
        return chaos.delays() - self._before

    @contextlib.contextmanager
    def active(self) -> Generator[None]:
        """Delays the handlers of each loop that is made within the block."""
        with _environment({DELAY_VARIABLE: str(self._injector), SEED_VARIABLE: str(self.seed)}.items()):
            yield

    def __repr__(self) -> str:
        return f"<Chaos {self._injector} (microseconds), seed {self.seed}>"


@contextlib.contextmanager
def _environment(variables: Iterable[tuple[str, str]]) -> Generator[None]:
    """Sets variables for the length of the block."""
    before = {name: os.environ.get(name) for name, _ in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
