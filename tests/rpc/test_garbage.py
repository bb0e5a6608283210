"""A call's context is not kept alive by what refers to it."""

from __future__ import annotations

import gc
import weakref

from atoll import rpc


def test_a_context_goes_with_callbacks_that_refer_to_it() -> None:
    context = rpc.SyncServicerContext()
    context.add_callback(context.is_active)
    watched = weakref.ref(context)
    del context
    gc.collect()
    assert watched() is None
