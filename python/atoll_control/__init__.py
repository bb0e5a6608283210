"""The control plane built with Atoll: who belongs to the cluster, who is alive, and a store to coordinate through.

    cli | testing  →  server | client  →  api, atoll
              demo  →  api

`api` is generated from the protos beside it and is all that a client needs, in any language. `server` holds one module
per file, each on its own loop; `client` is the Python client. `demo`
stands for the rest of the world and knows the API only.

Only public names of `atoll` are used here: the control plane doubles as the proof that they are enough.

Importing this package imports nothing else.
"""
