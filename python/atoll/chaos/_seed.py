"""The seed of a run: `ATOLL_TESTING_SEED`, or one number per process that is drawn at its first use and logged."""

import logging
import os
from typing import Final

from atoll.chaos._grammar import Piece, pointing, quoted
from atoll.errors import ChaosConfigurationError

SEED_VARIABLE: Final = "ATOLL_TESTING_SEED"
_SEEDS: Final = 2**64
# Short enough to be typed from a screen, many enough that no two runs share one by chance.
_DRAWN_BYTES: Final = 5

_logger = logging.getLogger("atoll.chaos")

# Empty, or the one seed that this process drew.
_drawn: dict[str, int] = {}


def check_seed(seed: object, source: str) -> None:
    """Raises ChaosConfigurationError unless `seed` is one."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _SEEDS:
        raise ChaosConfigurationError(
            f"{source}: seed={seed!r} is not a whole number from 0 to {_SEEDS - 1}: write seed=1, for example"
        )


def environment_seed() -> int:
    """The seed that `ATOLL_TESTING_SEED` holds; where it is not set, one that this process draws once and logs.

    Raises:
        ChaosConfigurationError: When the variable holds no seed.
    """
    text = os.environ.get(SEED_VARIABLE, "").strip()
    if not text:
        return _drawn_seed()
    # No conversion of thousands of digits, which Python refuses.
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_SEEDS)) and int(text) < _SEEDS):
        wrong = next((index for index, character in enumerate(text) if character not in "0123456789"), 0)
        raise pointing(
            f"{SEED_VARIABLE}, {quoted(text)}",
            text,
            Piece("", wrong, wrong + 1),
            f"not a whole number from 0 to {_SEEDS - 1}",
            f"Write {SEED_VARIABLE}=1, for example, or leave it out to have a seed drawn and logged.",
        )
    return int(text)


def _drawn_seed() -> int:
    if "seed" not in _drawn:
        # The one number that has to come from outside of every seed.
        candidate = int.from_bytes(os.urandom(_DRAWN_BYTES), "big")
        if _drawn.setdefault("seed", candidate) is candidate:
            _logger.error("Drew the seed %d; set %s=%d to repeat this run", candidate, SEED_VARIABLE, candidate)
    return _drawn["seed"]
