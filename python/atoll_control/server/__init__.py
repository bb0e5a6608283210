"""The server: one module per file, each on a loop of its own.

    app  →  policy  →  health_monitor  →  node_manager | detector | verdict_reporter
       │           └→  kv_manager  →  validation
       └→  faults (only with demo controls)

A module owns its state and is entered by its loop alone, so none of them has a lock. What a module needs from outside
is handed to its constructor (settings, the server's id, the wall clock) or comes from its loop (time and timers).
"""
