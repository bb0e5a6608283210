"""`DelayInjector`: which handlers are delayed, for how long, and from which seed. Values: frozen, equal by content.

It says what is to be delayed; the loops do it, natively (`LoopCore._inject_delays`), and `atoll_core::chaos` decides
which rule is a handler's and draws its delays. Rules check themselves by being written down and read again, so that
there is one grammar and one set of messages.
"""

import math
import os
import re
from dataclasses import dataclass
from typing import Final, Self

from atoll._core import preview_delays
from atoll.chaos._grammar import Entry, Piece, Text, check_name, quoted
from atoll.chaos._seed import check_seed, environment_seed
from atoll.errors import ChaosConfigurationError

DELAY_VARIABLE: Final = "ATOLL_TESTING_DELAY_US"
# A longer delay is a slip of the keyboard: whatever waits for the handler has given up long before.
LONGEST_DELAY: Final = 3600.0
_MICROSECONDS: Final = 1_000_000
_LONGEST_MICROSECONDS: Final = round(LONGEST_DELAY * _MICROSECONDS)
_UNITS: Final = {"us": 1, "µs": 1, "ms": 1_000, "s": _MICROSECONDS}
_WITH_UNIT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(us|µs|ms|s)")


@dataclass(frozen=True)
class DelayRule:
    """How long handlers are delayed. Shown as it is written in `ATOLL_TESTING_DELAY_US`: `Heartbeat=1000:2000`.

    Attributes:
        pattern: A handler's full name (`NodeService.Heartbeat`, or as a path `/atoll.v1.NodeService/Heartbeat`), the
            last part of it (`Heartbeat`), or `*` for all that no other rule matches.
        minimum: The shortest delay in seconds, to the microsecond.
        maximum: The longest delay in seconds, which is drawn as well: Ray's range ends before it.

    Raises:
        ChaosConfigurationError: When the pattern or the bounds can't be.
    """

    pattern: str
    minimum: float
    maximum: float

    def __post_init__(self) -> None:
        """Checks it, and rounds the bounds to microseconds."""
        for word in ("minimum", "maximum"):
            value = getattr(self, word)
            if not math.isfinite(value):
                raise ChaosConfigurationError(
                    f"{word}={value!r} of the rule for {self.pattern!r} is no number of seconds: write 0.001 for 1 ms"
                )
            object.__setattr__(self, word, round(value * _MICROSECONDS) / _MICROSECONDS)
        object.__setattr__(self, "pattern", check_name("DelayRule", self.pattern))
        text = _text("DelayRule", str(self))
        for entry in text.entries():
            _bounds(text, entry)

    @property
    def in_microseconds(self) -> tuple[str, int, int]:
        """The pattern and both bounds, as they cross into Rust."""
        return self.pattern, round(self.minimum * _MICROSECONDS), round(self.maximum * _MICROSECONDS)

    def __str__(self) -> str:
        pattern, minimum, maximum = self.in_microseconds
        return f"{pattern}={minimum}:{maximum}"


@dataclass(frozen=True)
class DelayInjector:
    """Which handlers are delayed, how long, and the seed of the delays. A frozen value; any thread.

    The n-th delay of a handler on a loop depends on the seed, the loop's name, the handler's name and n, and on nothing
    else. Shown as it is written in `ATOLL_TESTING_DELAY_US`.

    Attributes:
        rules: At least one. Their order means nothing: the full name beats the last part beats `*`.
        seed: From 0 to 2**64 - 1.

    Raises:
        ChaosConfigurationError: When there is no rule, two rules have one pattern, or the seed is out of range.
    """

    rules: tuple[DelayRule, ...]
    seed: int

    def __post_init__(self) -> None:
        """Checks it."""
        object.__setattr__(self, "rules", tuple(self.rules))
        check_seed(self.seed, "DelayInjector")
        list(_text("DelayInjector", str(self)).entries())

    @classmethod
    def parse(cls, text: str, *, seed: int | None = None) -> Self:
        """Reads `Heartbeat=1000:2000,ObjectPull=50000:100000,*=0:100`: bounds in microseconds, both included.

        White space around names, numbers and commas is allowed.

        Args:
            text: The rules.
            seed: The seed; that of the environment (see `environment_seed`) unless given.

        Raises:
            ChaosConfigurationError: When the text is malformed. The message shows the entry, points at the column and
            shows a right one.
        """
        return cls._parse("DelayInjector.parse", text, seed)

    @classmethod
    def from_environment(cls) -> Self | None:
        """What `ATOLL_TESTING_DELAY_US` and `ATOLL_TESTING_SEED` say; None where the former is not set, or empty.

        Raises:
            ChaosConfigurationError: When one of them is malformed.
        """
        text = os.environ.get(DELAY_VARIABLE)
        return cls._parse(DELAY_VARIABLE, text, None) if text and text.strip() else None

    @classmethod
    def _parse(cls, source: str, text: str, seed: int | None) -> Self:
        written = _text(source, text)
        bounds = [(entry.name.text, *_bounds(written, entry)) for entry in written.entries()]
        rules = (DelayRule(name, low / _MICROSECONDS, high / _MICROSECONDS) for name, low, high in bounds)
        return cls(tuple(rules), environment_seed() if seed is None else seed)

    def rule_for(self, handler: str) -> DelayRule | None:
        """The rule for a handler, by its full name or its last part; None for one that is not delayed."""
        found = preview_delays(self.in_microseconds, self.seed, "", handler, 0)
        return None if found is None else next(rule for rule in self.rules if rule.pattern == found[0])

    def preview(self, loop_name: str, handler: str, count: int = 10) -> list[float]:
        """The first `count` delays, in seconds, that a handler gets on a loop; empty for one that is not delayed."""
        found = preview_delays(self.in_microseconds, self.seed, loop_name, handler, count)
        return [] if found is None else [delay / _MICROSECONDS for delay in found[1]]

    @property
    def in_microseconds(self) -> list[tuple[str, int, int]]:
        """The rules as they cross into Rust: (pattern, minimum, maximum)."""
        return [rule.in_microseconds for rule in self.rules]

    def __str__(self) -> str:
        return ",".join(map(str, self.rules))


def _text(source: str, text: str) -> Text:
    form = "name=minimum:maximum,name=minimum:maximum,... in microseconds"
    return Text(source, text, form, "1000:2000", ("minimum", "maximum"))


def _bounds(text: Text, entry: Entry) -> tuple[int, int]:
    """The bounds of an entry in microseconds."""
    minimum, maximum = text.words
    low, high = _delay(text, entry, minimum, entry.first), _delay(text, entry, maximum, entry.second)
    if low > high:
        raise text.error_at(
            entry,
            entry.values,
            f"the minimum {low} is above the maximum {high}",
            f"Write {entry.name.text}={high}:{low}.",
        )
    return low, high


def _delay(text: Text, entry: Entry, word: str, piece: Piece) -> int:
    written = piece.text
    if written.isascii() and written.isdigit():
        # Compared by length first: Python refuses to convert thousands of digits.
        digits = written.lstrip("0")
        if len(digits) > len(str(_LONGEST_MICROSECONDS)) or int(digits or "0") > _LONGEST_MICROSECONDS:
            problem = f"the {word} is above {_LONGEST_MICROSECONDS}, which is an hour"
            raise text.error_at(entry, piece, problem, "The unit is a microsecond: 1 ms is 1000, 1 s is 1000000.")
        return int(digits or "0")
    unit = _WITH_UNIT.fullmatch(written)
    if unit is not None:
        problem = f"the {word} {quoted(written)} has a unit; all are in microseconds"
        number = f"{float(unit[1]) * _UNITS[unit[2]]:.0f}"
        raise text.error_at(entry, piece, problem, f"Write {number} for {written}.")
    if written.startswith("-"):
        problem = f"the {word} {quoted(written)} is negative, and no handler can run before it is posted"
        raise text.error_at(entry, piece, problem, "Write 0 for no delay.")
    problem = f"the {word} {quoted(written)} is not a whole number of microseconds"
    raise text.error_at(entry, piece, problem)
