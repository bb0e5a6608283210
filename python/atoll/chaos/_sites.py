"""Fault sites: places in code that misbehave on purpose, in the manner of FoundationDB's BUGGIFY.

A site is drawn on two levels. In each run it is activated or not, with one probability, so that runs differ in kind;
where it is activated it fires with another. The draws are native (`atoll_core::chaos::FaultStream`).

| state | written by | read by | under |
|---|---|---|---|
| `_sites` | whoever declares a site | reports | – (a dict's single operations are atomic) |
| `_active` | `sites()` blocks, and declarations, which look at the environment | sites | – (a list's are, too) |
| `FaultRun._streams` | a site's first draw on a loop | sites, reports | – (the same) |
"""

import logging
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from atoll._core import FaultStream, current_loop
from atoll.chaos._exit import log_at_exit
from atoll.chaos._fault_report import FaultCount, FaultReport
from atoll.chaos._grammar import EVERY, Entry, Piece, Text, check_name, quoted
from atoll.chaos._seed import SEED_VARIABLE, check_seed, environment_seed
from atoll.errors import ChaosConfigurationError

SITES_VARIABLE: Final = "ATOLL_TESTING_SITES"
ACTIVATION: Final = 0.25
FIRING: Final = 0.25
_NUMBER: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")

_logger = logging.getLogger("atoll.chaos")


@dataclass(frozen=True)
class SiteRule:
    """How likely a site is to misbehave. Shown as it is written in `ATOLL_TESTING_SITES`: `store.write.slow=1.0:0.5`.

    Attributes:
        pattern: The site's name, or `*` for all that no other rule names.
        activation: The share of runs in which it can fire at all, from 0 to 1.
        firing: The share of its draws that fire then, from 0 to 1.

    Raises:
        ChaosConfigurationError: When the name can't be one, or a probability is none.
    """

    pattern: str
    activation: float = ACTIVATION
    firing: float = FIRING

    def __post_init__(self) -> None:
        """Checks it."""
        object.__setattr__(self, "pattern", check_name("SiteRule", self.pattern))
        text = _text("SiteRule", str(self))
        for entry in text.entries():
            _probabilities(text, entry)

    def __str__(self) -> str:
        return f"{self.pattern}={float(self.activation)!r}:{float(self.firing)!r}"


class FaultSite:
    """A place in code that asks whether to misbehave; `site()` makes it.

    Attributes:
        name: Its name in rules and reports.
    """

    __slots__ = ("name",)

    name: Final[str]

    def __init__(self, name: str) -> None:
        self.name = name

    def fires(self) -> bool:
        """Whether to misbehave this time. False, in some 20 ns, unless sites are on. Any thread.

        On a loop the draws depend on the seed, the site, the loop's name and how often the site was reached there;
        other loops don't change them. Code outside of loops shares one sequence of draws.
        """
        # Not more than this while sites are off: it is called in production.
        if not _active:
            return False
        return _fires(self.name)

    def __repr__(self) -> str:
        return f"<FaultSite {self.name!r}>"


# By name: what reports list.
_sites: dict[str, FaultSite] = {}
# The environment's run first, if it asks for one, then those of `sites()` blocks. The last one is in effect.
_active: list["FaultRun"] = []
# By the values of both variables; the runs that the environment has asked for.
_environment_runs: dict[tuple[str, str | None], "FaultRun"] = {}


class FaultRun:
    """What sites draw from while it is in effect; `sites()` makes it.

    Attributes:
        seed: The seed of all draws.
        rules: By name, `*` included.
    """

    def __init__(self, rules: Iterable[SiteRule], seed: int) -> None:
        self.seed = seed
        self.rules = {rule.pattern: rule for rule in rules}
        self._streams: dict[tuple[str, str], FaultStream] = {}

    def report(self) -> FaultReport:
        """What each site has done so far. Any thread."""
        streams = self._streams.copy()
        counts = []
        for name in sorted({*_sites.copy(), *(site for _, site in streams)}):
            loops = [(loop, *stream.counts()) for (loop, site), stream in sorted(streams.items()) if site == name]
            reached, fired = sum(each[1] for each in loops), sum(each[2] for each in loops)
            counts.append(FaultCount(name, self._stream("", name).activated, reached, fired, tuple(loops)))
        unknown = sorted(name for name in self.rules if name != EVERY and name not in _sites)
        return FaultReport(self.seed, tuple(counts), tuple(unknown))

    def _fires(self, site: str) -> bool:
        key = _loop_name(), site
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams.setdefault(key, self._stream(*key))
        if not stream.fires():
            return False
        if stream.counts()[1] == 1:
            _logger.warning("Fault site %s fires on loop %s, for the first time there", site, key[0] or "(none)")
        return True

    def _stream(self, loop_name: str, site: str) -> FaultStream:
        rule = self.rules.get(site) or self.rules.get(EVERY)
        activation, firing = (0.0, 0.0) if rule is None else (rule.activation, rule.firing)
        return FaultStream(self.seed, loop_name, site, activation, firing)

    def _log(self, remedy: str) -> None:
        rules = ",".join(map(str, self.rules.values()))
        _logger.error(
            "Fault sites are on: %s, seed %d; set %s=%d to repeat%s", rules, self.seed, SEED_VARIABLE, self.seed, remedy
        )


def site(name: str) -> FaultSite:
    """Declares a fault site; the same name gives the same site. Any thread, usually at import::

        SLOW_WRITE = chaos.site("store.write.slow")
        ...
        if SLOW_WRITE.fires():
            await asyncio.sleep(1.0)

    Args:
        name: A constant, for sites are never forgotten. By custom it goes from the general to the particular.

    Raises:
        ChaosConfigurationError: When no rule could name it, or `ATOLL_TESTING_SITES` or the seed is malformed.
    """  # noqa: D415 - the colon leads to the example
    known = _sites.get(name)
    if known is None:
        if name == EVERY or SiteRule(name).pattern != name:
            raise ChaosConfigurationError(
                f"{name!r} can't be the name of a fault site, for no rule could name it: leave out white space around "
                "it, and '*'"
            )
        known = _sites.setdefault(name, FaultSite(name))
    _follow_environment()
    return known


@contextmanager
def sites(
    *,
    seed: int | None = None,
    activation: float = ACTIVATION,
    firing: float = FIRING,
    rules: Iterable[SiteRule] = (),
) -> Iterator[FaultRun]:
    """Turns fault sites on, in the whole process, for the length of a `with` block, which gets the run::

        with chaos.sites(seed=7) as run:
            ...
        print(run.report())

    Of nested blocks the inner one is in effect, and each takes precedence over the environment. Any thread.

    Args:
        seed: The seed; that of the environment (see `environment_seed`) unless given.
        activation: The share of runs in which a site can fire, from 0 to 1; 1 makes each site part of the run.
        firing: The share of an activated site's draws that fire, from 0 to 1.
        rules: Other probabilities for sites by name.

    Raises:
        ChaosConfigurationError: When a probability is not from 0 to 1, two rules have one name, or the seed is none.
    """  # noqa: D415 - the colon leads to the example
    every = [*rules, SiteRule(EVERY, activation, firing)]
    if seed is not None:
        check_seed(seed, "sites")
    list(_text("sites", ",".join(map(str, every))).entries())
    run = FaultRun(every, environment_seed() if seed is None else seed)
    run._log("")  # noqa: SLF001 - this module's own
    _active.append(run)
    try:
        yield run
    finally:
        _active.remove(run)


def faults() -> FaultReport:
    """What each fault site has done in the run that is in effect; where sites are off, which there are. Any thread."""
    for run in _active[-1:]:
        return run.report()
    off = (FaultCount(name, activated=False, reached=0, fired=0, loops=()) for name in sorted(_sites.copy()))
    return FaultReport(None, tuple(off), ())


def _fires(name: str) -> bool:
    # A slice, for the block may end at this moment on another thread.
    return any(run._fires(name) for run in _active[-1:])  # noqa: SLF001 - this module's own


def _follow_environment() -> None:
    """Makes the environment's run, if it asks for one, the one below all others."""
    text = os.environ.get(SITES_VARIABLE)
    wanted = None
    if text is not None and text.strip():
        key = (text, os.environ.get(SEED_VARIABLE))
        wanted = _environment_runs.get(key)
        if wanted is None:
            mine = FaultRun(_parse(text), environment_seed())
            wanted = _environment_runs.setdefault(key, mine)
            if wanted is mine:
                mine._log(f", unset {SITES_VARIABLE} to end this")  # noqa: SLF001 - this module's own
                log_at_exit(_last_report)
    for run in _environment_runs.copy().values():
        while run is not wanted and run in _active:
            _active.remove(run)
    if wanted is not None and wanted not in _active:
        _active.insert(0, wanted)


def _last_report() -> FaultReport | None:
    return faults() if _active else None


def _parse(text: str) -> list[SiteRule]:
    written = _text(SITES_VARIABLE, text)
    return [SiteRule(entry.name.text, *_probabilities(written, entry)) for entry in written.entries()]


def _text(source: str, text: str) -> Text:
    form = "name=activation:firing,name=activation:firing,... with probabilities from 0 to 1"
    return Text(source, text, form, "0.25:0.25", ("activation", "firing"))


def _probabilities(text: Text, entry: Entry) -> tuple[float, float]:
    activation, firing = text.words
    return _probability(text, entry, activation, entry.first), _probability(text, entry, firing, entry.second)


def _probability(text: Text, entry: Entry, word: str, piece: Piece) -> float:
    written = piece.text
    percent = written.endswith("%")
    number = _NUMBER.fullmatch(written.removesuffix("%"))
    value = math.nan if number is None else float(number[0])
    if not percent and 0.0 <= value <= 1.0:
        return value
    if percent and 0.0 <= value <= 100.0:  # noqa: PLR2004 - per cent
        problem = f"the {word} {quoted(written)} is in per cent"
        raise text.error_at(entry, piece, problem, f"Write {value / 100:g} for {written}.")
    problem = f"the {word} {quoted(written)} is not a probability from 0 to 1"
    raise text.error_at(entry, piece, problem)


def _loop_name() -> str:
    """The name of the loop that runs on this thread, or nothing."""
    loop = current_loop()
    return "" if loop is None else loop.name
