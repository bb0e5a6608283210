"""What is printed: a line per case, what is left to mend, and a summary that is compared with what is known."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conformance.known import Known
    from conformance.outcome import Outcome

SECONDS_BETWEEN_LINES: Final = 10.0
"""Of progress, where there is no terminal."""


@dataclass
class Suite:
    """The cases of one suite, as they come in."""

    name: str
    known: Sequence[Known]
    quiet: bool
    """Whether only what is not as expected gets a line: for hundreds of cases."""
    passed: int = 0
    expected: int = 0
    wrong: list[str] = field(default_factory=list)
    matched: set[str] = field(default_factory=set)
    _shown: float = field(default_factory=time.monotonic)

    @property
    def ran(self) -> int:
        """How many cases there were."""
        return self.passed + self.expected + len(self.wrong)

    def add(self, outcome: Outcome) -> None:
        """Count a case, and print its line."""
        known = next((known for known in self.known if known.matches(outcome.name)), None)
        took = "" if outcome.seconds is None else f"  {outcome.seconds:5.2f} s"
        line = f"{self.name}  {outcome.name:<44}"
        if known is not None:
            self.matched.add(known.pattern)
        if outcome.failure and known is not None:
            self.expected += 1
            _print(f"{line}  known to fail: {known.reason}")
        elif outcome.failure:
            self.wrong.append(outcome.name)
            _print(f"{line}  FAILED{took}\n    {outcome.failure.replace(chr(10), chr(10) + '    ')}")
        elif known is not None:
            self.wrong.append(outcome.name)
            _print(f"{line}  passes, but is said to fail: take it out of the known failures")
        else:
            self.passed += 1
            if not self.quiet:
                _print(f"{line}  ok{took}")

    def progress(self, done: int, total: int) -> None:
        """Show how far a suite has got that tells what became of its cases only at its end."""
        on_terminal = sys.stderr.isatty()
        now = time.monotonic()
        if on_terminal:
            sys.stderr.write(f"\r\x1b[K{self.name}  {done} of {total}" + ("\r\x1b[K" if done == total else ""))
        elif now - self._shown > SECONDS_BETWEEN_LINES or done == total:
            self._shown = now
            sys.stderr.write(f"{self.name}  {done} of {total} answered\n")
        sys.stderr.flush()

    def close(self, *, whole: bool) -> None:
        """Say so of what is known and was not seen to fail, if the whole suite was run."""
        for known in self.known:
            if whole and not known.skipped and known.pattern not in self.matched:
                self.wrong.append(known.pattern)
                _print(f"{self.name}  {known.pattern}  matches no case: take it out of the known failures")

    def summary(self) -> str:
        """Return a line."""
        skipped = sum(known.skipped for known in self.known)
        parts = [f"{self.passed} passed", f"{len(self.wrong)} failed", f"{self.expected} known to fail"]
        return f"{self.name}: {', '.join(parts)}" + (f", {skipped} patterns skipped" if skipped else "")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
