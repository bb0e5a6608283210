"""What an agent is told, as frozen objects."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from atoll_control.client import Tls

MAX_CHECKS: Final = 64  # the server keeps as many conditions of a node
DEFAULT_CHECK_INTERVAL: Final = 30.0
DEFAULT_CHECK_TIMEOUT: Final = 10.0
_MIN_CHECK_SECONDS: Final = 0.1
_MAX_EXIT_CODE: Final = 255
_CONDITION: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,127}")
# The server's own: it says of a node that is silent.
_SUSPECT: Final = "Suspect"


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkSettings:
    """How the servers are reached.

    Attributes:
        servers: "host:port" of each.
        token: shown with every call.
        token_file: has the token, and is read again for each new connection; goes before `token`.
        tls: encrypts the connections.
    """

    servers: tuple[str, ...]
    token: str | None = None
    token_file: Path | None = None
    tls: Tls | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckSettings:
    """A command whose exit code is the status of a condition.

    Attributes:
        name: of the condition.
        command: the program and its arguments; no shell reads them.
        interval: seconds from one start to the next; a run that takes longer delays it.
        timeout: seconds after which a run is killed, with all that it has started.
        true_codes: exit codes that make the condition TRUE.
        false_codes: those that make it FALSE; with all others it is UNKNOWN.

    Raises:
        ValueError: one can't work; the message begins with its name.
    """

    name: str
    command: tuple[str, ...]
    interval: float = DEFAULT_CHECK_INTERVAL
    timeout: float = DEFAULT_CHECK_TIMEOUT
    true_codes: frozenset[int] = frozenset({0})
    false_codes: frozenset[int] = frozenset({1})

    def __post_init__(self) -> None:
        if _CONDITION.fullmatch(self.name) is None:
            raise ValueError(
                f'name: must be a letter, then letters, digits, ".", "_" and "-", at most 128; got {self.name!r}'
            )
        if self.name == _SUSPECT:
            raise ValueError(f"name: {_SUSPECT!r} is set by the server alone: choose another")
        if not self.command or not self.command[0] or any("\0" in word for word in self.command):
            raise ValueError(
                'command: must be a program and its arguments, for example ["/usr/bin/test", "-e", "/data"]'
            )
        for name, seconds in (("interval", self.interval), ("timeout", self.timeout)):
            if not _MIN_CHECK_SECONDS <= seconds < math.inf:
                raise ValueError(f"{name}: must be at least {_MIN_CHECK_SECONDS:g} seconds, got {seconds:g}")
        for name, codes in (("true_codes", self.true_codes), ("false_codes", self.false_codes)):
            if not all(0 <= code <= _MAX_EXIT_CODE for code in codes):
                raise ValueError(f"{name}: must be exit codes, from 0 to {_MAX_EXIT_CODE}; got {sorted(codes)}")
        if both := self.true_codes & self.false_codes:
            raise ValueError(f"false_codes: {min(both)} is one of true_codes already")


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentSettings:
    """What the agent is told.

    Attributes:
        link: how the servers are reached.
        address: where this node can be reached, "host:port"; empty when it serves nothing.
        labels: by which nodes are found.
        resources: what the node offers, beside what is detected and in place of it.
        checks: commands that set conditions.
        start_jitter: seconds; the first registration is delayed by up to this, by chance.
        place_patience: seconds for which another process with the same id may still leave or die.
    """

    link: LinkSettings
    address: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    checks: tuple[CheckSettings, ...] = ()
    start_jitter: float = 0.5
    place_patience: float = 15.0


_TEXTS: Final = 'an array of texts, such as ["/usr/bin/test", "-e", "/data"]'
_CODES: Final = "an array of exit codes, such as [0, 3]"


def check_of(table: Mapping[str, object]) -> CheckSettings:
    """A check as it stands in the file.

    Raises:
        ValueError: it is none; the message begins with the name of what is wrong.
    """
    known = ("name", "command", "interval", "timeout", "true_codes", "false_codes")
    if unknown := [name for name in table if name not in known]:
        raise ValueError(f"{unknown[0]}: a check has no such setting; it has {', '.join(known)}")
    for name in known[:2]:
        if name not in table:
            raise ValueError(f"{name}: is required")
    read: dict[str, Any] = {"name": _checked("name", table["name"], str, "a text in quotation marks")}
    read["command"] = tuple(_list("command", table["command"], str, _TEXTS))
    for name in ("interval", "timeout"):
        if name in table:
            read[name] = float(_checked(name, table[name], (int, float), "a number of seconds"))
    for name in ("true_codes", "false_codes"):
        if name in table:
            read[name] = frozenset(_list(name, table[name], int, _CODES))
    return CheckSettings(**read)


def _checked(name: str, value: object, kind: type | tuple[type, ...], what: str) -> Any:  # noqa: ANN401 - of that kind
    # TOML's `true` is no number, though Python's is.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name}: must be {what}, got {value!r}")  # noqa: TRY004 - what a file says is a value
    return value


def _list(name: str, value: object, kind: type, what: str) -> list[Any]:
    items = _checked(name, value, list, what)
    return [_checked(name, item, kind, what) for item in items]
