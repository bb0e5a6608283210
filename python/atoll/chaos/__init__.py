"""Faults on purpose, for tests: delays of handlers, and sites in code that misbehave now and then.

Two ways to meet the orderings and failures that happen once a month. `DelayInjector` says which handlers are delayed,
and the loops do it: posts, timers, periodic runs and calls, each once. A `site("name")` is a place in your own code
that asks whether to misbehave. Both are drawn from one seed, so that what a run showed can be run again, and both are
loud while they are on.

- `ATOLL_TESTING_DELAY_US` holds delays in microseconds by handler: `Heartbeat=1000:2000,*=0:100`.
- `ATOLL_TESTING_SITES` holds probabilities of activation and firing by site: `store.write.slow=1:0.5,*=0.25:0.25`.
- `ATOLL_TESTING_SEED` holds the seed, from 0 to 2**64 - 1; it is drawn and logged when it is not set.

Everything here may be called from any thread. The state is that of the process: `_injectors` and `_announced`
(`_environment.py`, `_announcements.py`), `_sites` and `_active` (`_sites.py`), each changed by single operations of
dicts and lists, which Python makes atomic. So there is no lock here that a signal handler, a collection or a forked
child could wait for.
"""

from atoll.chaos._announcements import DelayCount, DelayReport, announce, delays
from atoll.chaos._delays import DelayInjector, DelayRule
from atoll.chaos._environment import environment_injector, environment_seed
from atoll.chaos._fault_report import FaultCount, FaultReport
from atoll.chaos._sites import FaultRun, FaultSite, SiteRule, faults, site, sites

__all__ = [
    "DelayCount",
    "DelayInjector",
    "DelayReport",
    "DelayRule",
    "FaultCount",
    "FaultReport",
    "FaultRun",
    "FaultSite",
    "SiteRule",
    "announce",
    "delays",
    "environment_injector",
    "environment_seed",
    "faults",
    "site",
    "sites",
]
