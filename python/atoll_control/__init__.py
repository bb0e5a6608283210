"""The control plane built with Atoll: who belongs to the cluster, who is alive, and a store to coordinate through.

    cli  →  agent  →  client  →  api, atoll
    cli  →  server  →  api, atoll
    demo  →  testing  →  api

`api` is generated from the protos beside it and is all that a client needs, in any language. `server` holds one module
per file, each on its own loop; `client` is the Python client, and `agent` makes a machine a node. `demo` stands for the
rest of the world: neither it nor `agent` knows the server.

Only public names of `atoll` are used here: the control plane doubles as the proof that they are enough.

Importing this package imports nothing else.
"""
