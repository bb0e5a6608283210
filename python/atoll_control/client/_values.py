"""What the groups of methods share."""

from __future__ import annotations

from typing import Final

# Rows of a page, where a caller does not say it.
PAGE: Final = 1_000


def as_bytes(text: bytes | str) -> bytes:
    """Bytes as they are, a text in UTF-8."""
    return text.encode() if isinstance(text, str) else text
