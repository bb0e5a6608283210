"""Structured logs on standard error: one line per event, for people (`console`) or for machines (`json`).

Lines of the standard library's `logging`, the framework's among them, take the same form.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
import sys
from enum import StrEnum
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from structlog.typing import Processor

    from atoll_control.server.audit import Line

AUDIT: Final = "atoll_control.audit"
_PLAIN: Final = re.compile(r"[\w.:/@\[\]-]+", re.ASCII).fullmatch


class LogFormat(StrEnum):
    """How a line looks."""

    CONSOLE = "console"
    JSON = "json"


_configured: tuple[LogFormat, logging.StreamHandler[TextIO]] | None = None


def configure(log_format: LogFormat) -> None:
    """Sends every log line of this process to standard error in the given form."""
    global _configured  # noqa: PLW0603 - as what logging and structlog know
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
    ]
    renderer: Processor
    if log_format is LogFormat.JSON:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer(default=str)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    _configured = log_format, handler
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


def audit_sink() -> Callable[[Sequence[Line]], None]:
    """What writes lines of the audit; any thread.

    After `configure` its lines are like any others to who reads them, but are written without the steps that others go
    through, which take 75 us: changes come by the ten thousand per second, and each has its line.
    """
    if _configured is None:
        return _log_lines
    log_format, handler = _configured
    text_of = _json_line if log_format is LogFormat.JSON else _console_line

    def write(lines: Sequence[Line]) -> None:
        text = "".join([text_of(line.fields, _time_of(line.at)) for line in lines])
        handler.acquire()
        try:
            handler.stream.write(text)
        except (OSError, ValueError):
            # Standard error is gone, and with it where that could be said: the change was made all the same.
            pass
        finally:
            handler.release()

    return write


def _log_lines(lines: Sequence[Line]) -> None:
    for line in lines:
        structlog.get_logger(AUDIT).info("audit", **line.fields)


_encode: Final = json.JSONEncoder(default=str).encode


def _value(value: object) -> str:
    """As JSON. By hand for what most values are: an encoder that is set up for each line takes twice as long."""
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, dict):
        return f"{{{', '.join([f'{encode_basestring_ascii(key)}: {_value(it)}' for key, it in value.items()])}}}"
    return _encode(value)


def _json_line(fields: Mapping[str, Any], at: str) -> str:
    own = ", ".join([f'"{key}": {_value(value)}' for key, value in fields.items()])
    return f'{{{own}, "event": "audit", "logger": "{AUDIT}", "level": "info", "timestamp": "{at}"}}\n'


def _console_line(fields: Mapping[str, Any], at: str) -> str:
    # What people choose can't look like another field, or another line.
    own = " ".join(
        [
            f"{key}={value if isinstance(value, str) and _PLAIN(value) else _value(value)}"
            for key, value in fields.items()
        ]
    )
    return f"{at} [info     ] audit {own} [{AUDIT}]\n"


# The last second that was written down, and how; replaced as a whole, by any thread.
_second: tuple[int, str] = 0, "1970-01-01T00:00:00"


def _time_of(nanoseconds: int) -> str:
    global _second  # noqa: PLW0603 - writing a time down takes longer than the rest of a line
    second, microseconds = divmod(nanoseconds // 1000, 1_000_000)
    known, text = _second
    if known != second:
        text = dt.datetime.fromtimestamp(second, dt.UTC).isoformat()[:19]
        _second = second, text
    return f"{text}.{microseconds:06d}Z"
