"""One line of progress on stderr: the share done, the time left, what runs now.

Only written between measurements: a thread that redraws would compete for the cores that are being measured.
"""

from __future__ import annotations

import sys
import time


class Progress:
    """Counts expected seconds down, corrected by how long the steps so far really took."""

    def __init__(self, expected_seconds: float) -> None:
        """Start the clock for steps that together should take ``expected_seconds``."""
        self._expected = expected_seconds
        self._done = 0.0
        self._started = time.monotonic()
        self._overwrite = sys.stderr.isatty()

    def step(self, label: str, expected_seconds: float) -> None:
        """Show that ``label`` starts now and should take ``expected_seconds``."""
        elapsed = time.monotonic() - self._started
        pace = elapsed / self._done if self._done else 1.0
        left = round(max(0.0, self._expected - self._done) * pace)
        share = min(99, round(100 * self._done / self._expected))
        line = f"[{share:3d} %, {left // 60}:{left % 60:02d} left] {label}"
        sys.stderr.write(f"\r\x1b[K{line}" if self._overwrite else f"{line}\n")
        sys.stderr.flush()
        self._done += expected_seconds

    def close(self) -> None:
        """Clear the line."""
        if self._overwrite:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
