"""`AgentOptions`: what can be set of `atollctl agent`, each declared once; a new setting is a new field here."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from atoll_control.agent.settings import MAX_CHECKS, AgentSettings, CheckSettings, LinkSettings, check_of
from atoll_control.api.addresses import split_address
from atoll_control.cli.configuration import ConfigurationError, Places, setting
from atoll_control.cli.connection import WrongConnectionError, identity
from atoll_control.server.logs import LogFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from atoll_control.cli.configuration import Configuration

AGENT_FILE: Final = Path("/etc/atoll/agent.toml")
AGENT_FILE_VARIABLE: Final = "ATOLL_AGENT_CONFIG"
TOKEN_VARIABLE: Final = "ATOLL_TOKEN"  # noqa: S105 - the name of a variable
STATE_VARIABLE: Final = "STATE_DIRECTORY"
CHECK: Final = "check"

_NODE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MAX_NAMED: Final = 64
_MAX_NAME_BYTES: Final = 128
_MAX_LABEL_BYTES: Final = 1024


def _address_problem(address: str) -> str | None:
    if (split := split_address(address)) is None or split[1] == 0:
        return f"must be HOST:PORT, for example 10.0.0.7:7000; got {address!r}"
    return None


def _servers_problem(servers: Iterable[str]) -> str | None:
    return next((problem for server in servers if (problem := _address_problem(server)) is not None), None)


def _node_id_problem(node_id: str) -> str | None:
    if _NODE_ID.fullmatch(node_id) is None:
        return f'must be 1 to 128 letters, digits, ".", "_", ":" and "-"; got {node_id!r}'
    return None


def _labels_problem(pairs: Iterable[str]) -> str | None:
    return _pairs_problem(pairs, "zone=a")


def _resources_problem(pairs: tuple[str, ...]) -> str | None:
    if (problem := _pairs_problem(pairs, "gpu=2")) is not None:
        return problem
    for pair in pairs:
        name, _, amount = pair.partition("=")
        try:
            if math.isfinite(number := float(amount)) and number >= 0:
                continue
        except ValueError:
            pass
        return f"must be NAME=AMOUNT with a number from 0, for example {name}=2; got {pair!r}"
    return None


def _pairs_problem(pairs: Iterable[str], example: str) -> str | None:
    names = set()
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or len(name.encode()) > _MAX_NAME_BYTES or len(value.encode()) > _MAX_LABEL_BYTES:
            return (
                f"must be NAME=VALUE, for example {example}, with at most {_MAX_NAME_BYTES} and {_MAX_LABEL_BYTES:,} "
                f"bytes; got {pair!r}"
            )
        if name in names:
            return f"must name each once, got {name!r} twice"
        names.add(name)
    return f"must be at most {_MAX_NAMED}, got {len(names)}" if len(names) > _MAX_NAMED else None


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """The settings of `atollctl agent`. Those of the connection have the variables that other commands have."""

    PLACES: ClassVar[Places] = Places(
        prefix="ATOLL_AGENT_",
        file=AGENT_FILE,
        file_variable=AGENT_FILE_VARIABLE,
        tables=(CHECK,),
        listed_by="atollctl config agent",
    )

    server: tuple[str, ...] = setting(
        ("127.0.0.1:50051",),
        metavar="HOST:PORT,...",
        variable="ATOLL_SERVER",
        check=_servers_problem,
        help="Where the servers listen: all of them, where there are several. The one that leads is found.",
    )
    state_dir: Path | None = setting(
        None,
        metavar="DIRECTORY",
        help="Where this node's id is kept; made if it is not there. Default: $STATE_DIRECTORY, which systemd sets, or "
        "else ~/.local/state/atoll-agent.",
    )
    node_id: str | None = setting(
        None,
        metavar="ID",
        check=_node_id_problem,
        help="This node's id, for its first start. Default: the host's name and a random part.",
    )
    address: str | None = setting(
        None, metavar="HOST:PORT", check=_address_problem, help="Where this node itself is reached, if it serves."
    )
    label: tuple[str, ...] = setting(
        (), metavar="NAME=VALUE,...", check=_labels_problem, help="By which nodes are found; may be repeated."
    )
    resource: tuple[str, ...] = setting(
        (),
        metavar="NAME=AMOUNT,...",
        check=_resources_problem,
        help="What this node offers, as in gpu=2; may be repeated. cpu and memory are detected.",
    )
    token_file: Path | None = setting(
        None,
        metavar="FILE",
        variable="ATOLL_TOKEN_FILE",
        help="The token to show the server, read anew when the server does not take the one before; the variable "
        "ATOLL_TOKEN may have the token itself.",
    )
    tls: bool = setting(
        default=False,
        variable="ATOLL_TLS",
        help="Use TLS, and trust whom this machine trusts. Implied by the next three.",
    )
    tls_ca: Path | None = setting(
        None, metavar="FILE", variable="ATOLL_TLS_CA", help="Who vouches for the server (PEM)."
    )
    tls_cert: Path | None = setting(
        None, metavar="FILE", variable="ATOLL_TLS_CLIENT_CERT", help="A certificate to show the server (PEM)."
    )
    tls_key: Path | None = setting(
        None, metavar="FILE", variable="ATOLL_TLS_CLIENT_KEY", help="The key of that certificate (PEM)."
    )
    tls_server_name: str | None = setting(
        None,
        metavar="NAME",
        variable="ATOLL_TLS_SERVER_NAME",
        help="The name in the server's certificate, where it is not that of --server.",
    )
    forget_epoch: bool = setting(
        default=False,
        help="Believe a server whose epoch is lower than the highest seen: once, when its store was made anew.",
    )
    log_format: LogFormat = setting(
        LogFormat.CONSOLE, help="Log lines for people or for machines, one per event, on standard error."
    )


def state_directory(options: AgentOptions, environment: Mapping[str, str]) -> Path:
    """Where the agent keeps its state."""
    if options.state_dir is not None:
        return options.state_dir
    # systemd names several with colons between.
    if given := environment.get(STATE_VARIABLE, "").partition(":")[0]:
        return Path(given)
    return Path(environment.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "atoll-agent"


def agent_settings(configuration: Configuration[AgentOptions], environment: Mapping[str, str]) -> AgentSettings:
    """What the agent is told.

    Raises:
        ConfigurationError: settings that are fine each by itself don't go together, or name what can't be used.
    """
    options = configuration.options
    token = environment.get(TOKEN_VARIABLE) or None
    try:
        _, tls = identity(options, token)
    except WrongConnectionError as wrong:
        if wrong.option is None:
            raise ConfigurationError([f"{TOKEN_VARIABLE}: {wrong.problem}"]) from None
        raise configuration.wrong(wrong.option, wrong.problem) from None
    return AgentSettings(
        link=LinkSettings(servers=options.server, token=token, token_file=options.token_file, tls=tls),
        address=options.address or "",
        labels=_pairs(options.label),
        resources={name: float(amount) for name, amount in _pairs(options.resource).items()},
        checks=_checks(configuration),
    )


def _pairs(pairs: Iterable[str]) -> dict[str, str]:
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def _checks(configuration: Configuration[AgentOptions]) -> tuple[CheckSettings, ...]:
    tables = configuration.tables.get(CHECK, ())
    problems: list[str] = []
    found: dict[str, CheckSettings] = {}
    for number, table in enumerate(tables, 1):
        try:
            check = check_of(table)
            if check.name in found:
                raise ValueError(f"name: {check.name!r} is another check's already")  # noqa: TRY301 - told like the rest
            found[check.name] = check
        except ValueError as error:
            problems.append(f"{configuration.file}: {CHECK} {number}: {error}")
    if len(tables) > MAX_CHECKS:
        problems.append(f"{configuration.file}: {CHECK}: there may be {MAX_CHECKS} at most, got {len(tables)}")
    if problems:
        raise ConfigurationError(problems)
    return tuple(found.values())
