"""Bounds of listings, whatever they list. What a request may contain stands in the protos: see `rules`."""

from __future__ import annotations

from typing import Final

# What a page has at most when its request does not say.
DEFAULT_PAGE: Final = 1_000
# A page of a listing ends when it has grown to this size: clients refuse messages beyond 4 MiB unless told otherwise.
MAX_PAGE_BYTES: Final = 2 << 20
