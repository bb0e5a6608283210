"""Reports that are logged when the interpreter ends: how else would one see what a program's environment did to it?"""

import atexit
import logging
from collections.abc import Callable

_logger = logging.getLogger("atoll.chaos")


Report = Callable[[], object | None]

# By report; the values tell who was first.
_registered: dict[Report, object] = {}


def log_at_exit(report: Report) -> None:
    """Has what `report` returns, if anything, logged when the interpreter ends. Once per report. Any thread."""
    mine = object()
    if _registered.setdefault(report, mine) is mine:
        atexit.register(_log, report)


def _log(report: Report) -> None:
    said = report()
    if said is not None:
        _logger.warning("%s", said)
