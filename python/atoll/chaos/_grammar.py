"""The grammar that all settings share, `name=first:second,...`, and errors that point into what was written.

A `Text` is a setting as it was written, a `Piece` a part of it that knows its place. What the two numbers of an entry
mean, and which of them are right, is for the settings themselves to say.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from atoll.errors import ChaosConfigurationError

EVERY: Final = "*"
_EXCERPT: Final = 100  # characters of a long text that an error shows
_LEAD: Final = 60  # how many of them before the place that it points at
_NUMBERS: Final = re.compile(r"[0-9]*:|[0-9]+$")
_QUOTED: Final = 60  # characters of an entry, a name or a number that an error repeats


@dataclass(frozen=True)
class Piece:
    """A part of a setting, without the white space around it.

    Attributes:
        text: The part itself.
        start: Where it begins, from 0 on; where it would be, when it is empty.
        end: Where it ends.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Entry:
    """One `name=first:second`."""

    number: int
    whole: Piece
    name: Piece
    first: Piece
    second: Piece

    @property
    def values(self) -> Piece:
        """Both numbers, with the colon between them."""
        return Piece("", self.first.start, self.second.end)


@dataclass(frozen=True)
class Text:
    """A setting as it was written.

    Attributes:
        source: Who said it, such as `ATOLL_TESTING_DELAY_US`.
        text: What was said.
        form: What a setting looks like: `name=minimum:maximum,name=...` and so on.
        example: Values that are right: `1000:2000`.
        words: What the first and the second number of an entry are called.
    """

    source: str
    text: str
    form: str
    example: str
    words: tuple[str, str]

    def entries(self) -> Iterator[Entry]:
        """The entries, with names that are right and used once. One by one, so that the first mistake is found first.

        Raises:
            ChaosConfigurationError: At a mistake.
        """
        known: dict[str, int] = {}
        for number, whole in enumerate(self._split(0, len(self.text), ","), start=1):
            entry = self._entry(number, whole)
            earlier = known.setdefault(entry.name.text, number)
            if earlier != number:
                raise self.error(
                    whole,
                    entry.name,
                    f"{quoted(entry.name.text)} has a rule already, in entry {earlier}",
                    "Keep one of the two.",
                    number,
                )
            yield entry

    def _entry(self, number: int, whole: Piece) -> Entry:
        if not whole.text:
            several = self.text.strip(", \t")
            remedy = "Remove the comma" if several else "Say what is meant, or leave the setting out"
            raise self.error(whole, whole, "the entry is empty", f"{remedy}.", number)
        if "=" not in whole.text:
            raise self.error(
                whole,
                Piece("", whole.end, whole.end),
                "the '=' between the name and its numbers is missing",
                self._right(_NUMBERS.split(whole.text)[0].strip()),
                number,
            )
        at = self.text.index("=", whole.start)
        name, values = self._piece(whole.start, at), self._piece(at + 1, whole.end)
        self._check_name(whole, name, number)
        parts = list(self._split(values.start, values.end, ":"))
        first = parts[0]
        if len(parts) == 1:
            place = Piece("", first.end, first.end)
            problem = f"the ':' between {self.words[0]} and {self.words[1]} is missing"
            raise self.error(whole, place, problem, self._right(name.text), number)
        if len(parts) > 2:  # noqa: PLR2004 - a first and a second
            place = Piece("", parts[1].end, values.end)
            problem = f"a third number: an entry has {self.words[0]} and {self.words[1]} only"
            raise self.error(whole, place, problem, "Is a comma missing? " + self._right(name.text), number)
        for part, word in zip(parts, self.words, strict=True):
            if not part.text:
                raise self.error(whole, part, f"the {word} is missing", self._right(name.text), number)
        return Entry(number, whole, name, first, parts[1])

    def _check_name(self, whole: Piece, name: Piece, number: int) -> None:
        if not name.text:
            problem, remedy = "the name before the '=' is missing", self._right("")
        elif EVERY in name.text and name.text != EVERY:
            problem = (
                f"{quoted(name.text)} has a '{EVERY}' in it, which stands for all others only when it stands alone"
            )
            remedy = f"Write the name in full, or {EVERY}={self.example}."
        elif not name.text.isprintable():
            problem, remedy = f"{quoted(name.text)} has a character in it that can't be printed", "Write the name anew."
        else:
            return
        raise self.error(whole, name, problem, remedy, number)

    def _right(self, name: str) -> str:
        """A right entry, for the name that was meant if it can be one."""
        usable = name and name.isprintable() and (EVERY not in name or name == EVERY)
        return f"Write {name if usable and len(name) <= _QUOTED else EVERY}={self.example}."

    def error_at(self, entry: Entry, place: Piece, problem: str, remedy: str = "") -> ChaosConfigurationError:
        """The error that `place` in `entry` is wrong; without a remedy it shows a right entry of that name."""
        return self.error(entry.whole, place, problem, remedy or self._right(entry.name.text), entry.number)

    def error(self, whole: Piece, place: Piece, problem: str, remedy: str, number: int) -> ChaosConfigurationError:
        """The error that `place`, in the entry `whole`, is wrong."""
        headline = f"{self.source}, entry {number}, {quoted(whole.text)}"
        hint = f"{remedy} The form is {self.form}; the name {EVERY} stands for all others."
        error = pointing(headline, self.text, place, problem, hint)
        error.entry = whole.text
        return error

    def _split(self, start: int, end: int, separator: str) -> Iterator[Piece]:
        """The pieces of the text from `start` to `end`."""
        while True:
            at = self.text.find(separator, start, end)
            if at < 0:
                yield self._piece(start, end)
                return
            yield self._piece(start, at)
            start = at + 1

    def _piece(self, start: int, end: int) -> Piece:
        raw = self.text[start:end]
        text = raw.strip()
        start += len(raw) - len(raw.lstrip()) if text else 0
        return Piece(text, start, start + len(text))


def check_name(source: str, name: str) -> str:
    """`name` without the white space around it, if an entry can begin with it.

    Raises:
        ChaosConfigurationError: When it has a character that the grammar needs.
    """
    if "," in name or "=" in name:
        raise ChaosConfigurationError(
            f"{source}: the name {quoted(name)} has a ',' or a '=' in it, which settings use themselves: write "
            "its last part, if that has none, or give what it names another name"
        )
    return name.strip()


def quoted(text: str) -> str:
    """`text` in quotes, as a message may repeat it: not without end."""
    return repr(text if len(text) <= _QUOTED else text[:_QUOTED] + "…")


def pointing(headline: str, text: str, place: Piece, problem: str, remedy: str) -> ChaosConfigurationError:
    """The error that `place` in `text` is wrong, with a line of carets below it."""
    shift = max(place.start - _LEAD, 0)
    # As many columns, whatever is in it.
    shown = "".join(each if each.isprintable() else " " for each in text[shift : shift + _EXCERPT])
    before = "…" if shift else ""
    after = "…" if shift + _EXCERPT < len(text) else ""
    room = _EXCERPT - (place.start - shift)
    carets = "^" * min(max(place.end - place.start, 1), room)
    error = ChaosConfigurationError(
        f"{headline}, column {place.start + 1}: {problem}\n"
        f"    {before}{shown}{after}\n"
        f"    {' ' * (place.start - shift + len(before))}{carets}\n"
        f"{remedy}"
    )
    error.entry, error.column = text, place.start + 1
    return error
