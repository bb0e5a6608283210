"""Which module lives on which loop: `IoContextPolicy` says it, `IoContextProvider` makes it so."""

from atoll.placement._policy import Dedicated, IoContextPolicy, dedicated
from atoll.placement._provider import IoContextProvider

__all__ = ["Dedicated", "IoContextPolicy", "IoContextProvider", "dedicated"]
