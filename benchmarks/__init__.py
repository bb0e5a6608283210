"""Atoll measured beside its peers, in one run on one machine: ``python -m benchmarks``.

Imports point down::

    __main__ -> echo | post | neighbour | scaling | overhead -> h2load | processes | protos -> summary | progress
    __main__ -> streaming | payload | tls | idle | broadcast -> pairs | holding -> echo_server -> h2load | processes
    __main__ -> control/ (nodes | kv | watchers | restart | failover) -> processes -> summary | progress
    __main__ -> report -> thresholds -> summary

What is measured is in ``servers/``, ``posting/``, ``scaling_loops`` and ``overheads/``; ``holder`` is a client. It runs
in processes of its own
and is never imported here, so a missing or broken peer costs its row and nothing else.

What every benchmark keeps to: peers take turns within each round, because a shared machine drifts; a ratio is taken
within a round and the median of the rounds is reported with the lowest and the highest; what is compared gets the same
work from the same client.
"""
