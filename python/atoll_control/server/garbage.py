"""How often Python looks for garbage in the process of a server.

A look at all objects stops every loop, since it holds the GIL: 60 to 80 ms with ten thousand nodes, each few seconds by
Python's own thresholds, which heartbeats reach in no time. Nearly nothing here is garbage that only a look finds.
"""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# New objects until Python looks at the young ones; such looks until one at the middle-aged; those until one at all.
THRESHOLDS: Final = (50_000, 20, 20)


@contextlib.contextmanager
def seldom_collected() -> Iterator[None]:
    """Within, Python looks seldom, and never at what is there when it begins: modules, classes, functions."""
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        # Another's may not be taken away.
        if not frozen:
            gc.unfreeze()
