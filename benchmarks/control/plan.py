"""How large a run is: in full, quick, and as small as the tests need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything, and how long.

    Attributes:
        nodes: of how many nodes the heartbeats are measured, one after the other.
        connections: how many the most nodes share; fewer nodes have one each.
        beat_seconds: how long heartbeats are measured.
        lists: how often all nodes are listed.
        kv_rounds: how often each server gets its turn.
        kv_seconds: how long a turn is.
        keys: how many keys are read and written; with the others there are more or less of them, without etcd.
        other_keys: those numbers.
        watchers: how many streams hear of a change, one number after the other.
        changes: how many they hear of.
        restart_keys: of how many keys restarts are measured, one number after the other.
        restarts: how often it is started with the last number.
        failover_nodes: how many nodes send heartbeats meanwhile, one number after the other.
        failovers: how often the leader is killed with the last number.
    """

    nodes: tuple[int, ...]
    connections: int
    beat_seconds: float
    lists: int
    kv_rounds: int
    kv_seconds: float
    keys: int
    other_keys: tuple[int, ...]
    watchers: tuple[int, ...]
    changes: int
    restart_keys: tuple[int, ...]
    restarts: int
    failover_nodes: tuple[int, ...]
    failovers: int


FULL: Final = Size(
    nodes=(100, 1_000, 10_000),
    connections=1_000,
    beat_seconds=12.0,
    lists=9,
    kv_rounds=3,
    kv_seconds=2.0,
    keys=10_000,
    other_keys=(100, 100_000),
    watchers=(100, 1_000, 10_000),
    changes=10,
    restart_keys=(10_000, 100_000, 1_000_000),
    restarts=3,
    failover_nodes=(100, 1_000, 10_000),
    failovers=3,
)
QUICK: Final = Size(
    nodes=(100, 1_000, 10_000),
    connections=1_000,
    beat_seconds=4.0,
    lists=5,
    kv_rounds=2,
    kv_seconds=1.0,
    keys=10_000,
    other_keys=(100, 100_000),
    watchers=(100, 1_000, 10_000),
    changes=4,
    restart_keys=(10_000, 1_000_000),
    restarts=1,
    failover_nodes=(10_000,),
    failovers=1,
)
SMOKE: Final = Size(
    nodes=(20,),
    connections=5,
    beat_seconds=0.5,
    lists=2,
    kv_rounds=1,
    kv_seconds=0.1,
    keys=50,
    other_keys=(10,),
    watchers=(5, 20),
    changes=2,
    restart_keys=(100, 2_000),
    restarts=1,
    failover_nodes=(20,),
    failovers=1,
)


def size(*, quick: bool) -> Size:
    """What the command line asks for."""
    return QUICK if quick else FULL
