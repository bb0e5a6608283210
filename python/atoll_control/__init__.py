"""The control plane built with Atoll: who belongs to the cluster, who is alive, and a store to coordinate through.

    cli | demo  →  server  →  api  →  (atoll)

`api` is generated from the protos beside it and is all that a client needs, in any language. `server` holds one module
per file, each on its own loop. Only public names of `atoll` are used here: the control plane doubles as the proof that
they are enough.

Importing this package imports nothing else.
"""
