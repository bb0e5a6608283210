"""Which module lives on which loop: `IoContextPolicy` says it, `IoContextProvider` makes it so."""

from atoll.placement._options import DedicatedOptions, PlacementOptions
from atoll.placement._policy import Dedicated, IoContextPolicy, PlacedLoop, dedicated
from atoll.placement._provider import IoContextProvider

__all__ = [
    "Dedicated",
    "DedicatedOptions",
    "IoContextPolicy",
    "IoContextProvider",
    "PlacedLoop",
    "PlacementOptions",
    "dedicated",
]
