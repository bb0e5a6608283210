"""The tables of the store, by name. Each is written by one module alone, but for rows that go with their owner."""

from __future__ import annotations

from typing import Final

# `NodeManager`'s.
NODES: Final = "nodes"
ENDINGS: Final = "endings"
# `KvManager`'s.
KV: Final = "kv"
# `LeaseManager`'s.
LEASES: Final = "leases"
# `TokenManager`'s.
TOKENS: Final = "tokens"

TABLES: Final = (NODES, ENDINGS, KV, LEASES, TOKENS)
