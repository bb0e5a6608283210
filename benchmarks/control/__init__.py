"""What is measured of the control plane, as an operator runs it: ``atollctl serve`` in a process of its own.

Imports point down::

    nodes | kv | watchers | restart | failover   the benchmarks
    beating | calling | watching | filling | writing | asking   their clients, processes of their own
    plan | servers | requests | line

The clients speak HTTP/2 by ``line``, because grpcio's client would need more of the processor than the servers, and
h2load can neither send a different key with each call nor keep a pace. What a client takes of the processor is measured
beside what its server takes: where the two share cores, the rate alone says little about either.
"""
