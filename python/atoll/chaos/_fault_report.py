"""Which fault sites were reached, activated and fired, frozen."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FaultCount:
    """What one site did in one run.

    Attributes:
        site: Its name.
        activated: Whether it could fire in this run; known from the seed, also of a site that was never reached.
        reached: How often code asked it.
        fired: How often it fired.
        loops: (loop, reached, fired) of each loop that reached it; the name is empty for code outside of loops.
    """

    site: str
    activated: bool
    reached: int
    fired: int
    loops: tuple[tuple[str, int, int], ...]

    def __str__(self) -> str:
        if not self.reached:
            done = "never reached"
        else:
            where = ", ".join(
                f"{loop or 'outside of loops'}: {fired} of {reached}" for loop, reached, fired in self.loops
            )
            done = f"fired {self.fired} of {self.reached} times ({where})"
        return f"{'activated, ' if self.activated else 'not activated, '}{done}"


@dataclass(frozen=True, slots=True)
class FaultReport:
    """What the fault sites did in one run. `str()` gives a table.

    Attributes:
        seed: The seed of the run; None when sites are off.
        sites: Each site that code has declared, by name.
        unknown: Names that have a rule of their own and that no code has declared: a typing error, or code that was not
            imported.
    """

    seed: int | None
    sites: tuple[FaultCount, ...]
    unknown: tuple[str, ...]

    def __iter__(self) -> Iterator[FaultCount]:
        return iter(self.sites)

    def __getitem__(self, site: str) -> FaultCount:
        """What the site called `site` did.

        Raises:
            KeyError: When no code has declared it.
        """
        for count in self.sites:
            if count.site == site:
                return count
        raise KeyError(f"no fault site {site!r}; declared: {', '.join(count.site for count in self.sites) or 'none'}")

    def __str__(self) -> str:
        if self.seed is None:
            return f"Fault sites are off; {len(self.sites)} are declared."
        sites = self.sites
        reached = sum(1 for count in sites if count.reached)
        activated = sum(1 for count in sites if count.activated)
        fired = sum(1 for count in sites if count.fired)
        title = f"Fault sites, seed {self.seed}: {len(sites)} declared, {reached} reached, {activated} activated"
        width = max((len(count.site) for count in sites), default=0)
        lines = [f"{title}, {fired} fired.", *(f"  {count.site:{width}}  {count}" for count in sites)]
        if self.unknown:
            lines.append(f"  Rules for sites that no code declares: {', '.join(self.unknown)}.")
        return "\n".join(lines)
