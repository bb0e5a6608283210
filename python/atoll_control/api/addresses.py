"""Addresses as everybody writes them, "host:port". Any thread."""

from __future__ import annotations

import re
from typing import Final

# An address of IPv6 stands in brackets. A comma is what stands between addresses, a slash what URLs have.
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\s:,/\[\]]+):(\d{1,5})")
_MAX_PORT: Final = 65535


def split_address(address: str) -> tuple[str, int] | None:
    """The host, with its brackets, and the port; None: it is no address. Whether port 0 is one the caller decides."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match.group(2)) > _MAX_PORT:
        return None
    return match.group(1), int(match.group(2))
