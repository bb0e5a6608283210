"""What the environment says of delays, read anew whenever a loop is constructed, and loud when it says something."""

import logging
import os
from typing import Final

from atoll.chaos._announcements import DelayReport, delays
from atoll.chaos._delays import DELAY_VARIABLE, DelayInjector
from atoll.chaos._exit import log_at_exit
from atoll.chaos._seed import SEED_VARIABLE, environment_seed

__all__ = ["environment_injector", "environment_seed"]

_MOST_INJECTORS: Final = 64

_logger = logging.getLogger("atoll.chaos")

# By the values of both variables: tests change them.
_injectors: dict[tuple[str, str | None], DelayInjector] = {}


def environment_injector() -> DelayInjector | None:
    """The delays that the environment asks for; None, after one look at it, where it asks for none.

    Loops call it when they are constructed, so that a malformed value ends the program at its start. The first call
    that finds a value logs it, at the level ERROR: this must not go unnoticed in production. Any thread.

    Raises:
        ChaosConfigurationError: When `ATOLL_TESTING_DELAY_US` or `ATOLL_TESTING_SEED` is malformed.
    """
    text = os.environ.get(DELAY_VARIABLE)
    if text is None:
        return None
    key = (text, os.environ.get(SEED_VARIABLE))
    known = _injectors.get(key)
    if known is not None:
        return known
    injector = DelayInjector.from_environment()
    if injector is None:
        return None
    if len(_injectors) >= _MOST_INJECTORS:
        _injectors.clear()
    # Of threads that look at once, all get the first one's.
    kept = _injectors.setdefault(key, injector)
    if kept is injector:
        _logger.error(
            "Delaying handlers: %s (microseconds), seed %d; set %s=%d to repeat, unset %s to end this",
            injector,
            injector.seed,
            SEED_VARIABLE,
            injector.seed,
            DELAY_VARIABLE,
        )
        log_at_exit(_last_report)
    return kept


def _last_report() -> DelayReport | None:
    return delays() if os.environ.get(DELAY_VARIABLE) else None
