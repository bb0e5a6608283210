"""Which cases are known to fail, and why: ``known_failures/SUITE-SERVER.txt``.

A line is a pattern, ` # ` and the reason. A pattern is a case's name, in which `*` stands for one part between slashes
and `**` for any number of them. With `skip ` before it the case is not even run, because it would break others. A line
that no failed case matches is an error, too: it is to be taken out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "known_failures"


@dataclass(frozen=True)
class Known:
    """One line."""

    pattern: str
    reason: str
    skipped: bool

    def matches(self, name: str) -> bool:
        """Tell whether the case with this name is meant."""
        return _matches(self.pattern.split("/"), name.split("/"))


def read(suite: str, kind: str) -> list[Known]:
    """Return what is known of this suite with this server.

    Raises:
        ValueError: a line has no reason.
    """
    # Where servicers live makes no difference on the wire.
    path = FOLDER / f"{suite}-{kind.partition('-')[0]}.txt"
    return parse(path.read_text(), str(path)) if path.exists() else []


def parse(text: str, source: str) -> list[Known]:
    """Return the lines of a file; ``source`` is its name. Raises what ``read`` raises."""
    known = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, reason = (part.strip() for part in line.partition(" # "))
        if not reason:
            raise ValueError(f"{source}:{number}: give the reason: {pattern} # why it fails")
        skipped = pattern.startswith("skip ")
        known.append(Known(pattern.removeprefix("skip ").strip(), reason, skipped))
    return known


def _matches(pattern: list[str], name: list[str]) -> bool:
    if not pattern:
        return not name
    first, *rest = pattern
    if first == "**":
        return any(_matches(rest, name[start:]) for start in range(len(name) + 1))
    return bool(name) and first in {"*", name[0]} and _matches(rest, name[1:])
