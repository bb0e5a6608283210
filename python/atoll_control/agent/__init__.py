"""The agent: makes this machine a node of the cluster, and says how it is.

Layers, each importing only what is to its right:

    app  →  policy  →  membership, checks  →  link, conditions, check_process  →  state, facts, settings  →  errors

`Membership` registers and sends heartbeats, `Checks` runs commands; each lives on a loop of its own, so that no check
delays a heartbeat, whatever it does. What the agent must not forget stands in its state directory (`state.py`).
"""
