"""`atoll demo`: hundreds of nodes join a server, one of its modules becomes slow, and the others must not notice.

    command  →  run  →  processes | view  →  verdict  →  samples
                worker (the other processes)  →  node  →  facts

`run` starts `atollctl serve` as a process of its own and the nodes in a few others, so that what is measured crosses
sockets and processes as in earnest. The nodes are stock grpcio clients and know nothing of Atoll but its protos.
"""
