"""What requests may contain: limits by name, and checks that answer with a message naming the field, or with `None`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_NODE_ID_CHARACTERS: Final = 128
MAX_ADDRESS_BYTES: Final = 256
MAX_LABELS: Final = 64
MAX_LABEL_KEY_BYTES: Final = 128
MAX_LABEL_VALUE_BYTES: Final = 1024
MAX_HOST_TEXT_BYTES: Final = 256
MAX_REASON_BYTES: Final = 1024
MAX_PAGE: Final = 10_000
DEFAULT_PAGE: Final = 1_000
# A page of a listing ends when it has grown to this size: clients refuse messages beyond 4 MiB unless told otherwise.
MAX_PAGE_BYTES: Final = 2 << 20

_NODE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\s:\[\]]+):(\d{1,5})")
_MAX_PORT = 65535


def first_problem(*problems: str | None) -> str | None:
    """The first of the problems found, or None."""
    return next((problem for problem in problems if problem is not None), None)


def node_id_problem(value: str) -> str | None:
    """Checks `node_id`."""
    if not value:
        return "node_id: is required"
    if len(value) > MAX_NODE_ID_CHARACTERS:
        return f"node_id: must be at most {MAX_NODE_ID_CHARACTERS} characters, got {len(value)}"
    if _NODE_ID.fullmatch(value) is None:
        return f'node_id: may contain letters, digits, ".", "_", ":" and "-" only, got {value!r}'
    return None


def incarnation_problem(value: int) -> str | None:
    """Checks `incarnation`."""
    return "incarnation: must be greater than zero" if value == 0 else None


def address_problem(value: str) -> str | None:
    """Checks `address`, which may be empty."""
    if not value:
        return None
    if (problem := text_problem("address", value, MAX_ADDRESS_BYTES)) is not None:
        return problem
    match = _ADDRESS.fullmatch(value)
    if match is None or not 0 < int(match.group(2)) <= _MAX_PORT:
        return f'address: must be "host:port" or empty, got {value!r}'
    return None


def labels_problem(labels: Mapping[str, str]) -> str | None:
    """Checks `labels`."""
    if len(labels) > MAX_LABELS:
        return f"labels: must be at most {MAX_LABELS}, got {len(labels)}"
    for key, value in labels.items():
        if not key:
            return "labels: a key must not be empty"
        problem = first_problem(
            text_problem("labels: a key", key, MAX_LABEL_KEY_BYTES, separator=""),
            text_problem(f"labels[{key!r}]", value, MAX_LABEL_VALUE_BYTES),
        )
        if problem is not None:
            return problem
    return None


def text_problem(field: str, value: str, limit: int, *, separator: str = ":") -> str | None:
    """Checks the length of a text in UTF-8."""
    return size_problem(field, len(value.encode()), limit, separator=separator)


def size_problem(field: str, size: int, limit: int, *, separator: str = ":") -> str | None:
    """Checks a number of bytes."""
    return f"{field}{separator} must be at most {limit:,} bytes, got {size:,}" if size > limit else None


def limit_problem(value: int) -> str | None:
    """Checks the `limit` of a listing, where zero stands for the default."""
    return f"limit: must be at most {MAX_PAGE:,}, got {value:,}" if value > MAX_PAGE else None
