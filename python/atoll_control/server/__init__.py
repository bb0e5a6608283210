"""The server: one module per file, each on a loop of its own.

    app  →  stopping, garbage, vitals  →  metrics_collector  →  metrics
     ├→  failover (only with several servers on etcd)  →  standby, term
     └→  term  →  policy  →  health_monitor  →  node_manager | detector | verdict_reporter
           │         ├→  watch_manager  →  watch_stream, watch_groups, watch_catch_up, topics  →  kv_manager
           │         ├→  kv_manager  →  lease_manager
           │         ├→  task_manager  →  task_table, task_pages, task_filters
           │         ├→  admin_manager
           │         └→  token_manager  →  tokens
           ├→  security, token_check (only where tokens are asked for), audit  →  access, tokens
           └→  faults (only with demo controls)

settings, logs, calls, rules, store_status, tables, owners, owner_end and pages are for whichever of them needs them.
All but task_manager work on the one store that app or failover opens.

A module owns its state and is entered by its loop alone, so none of them has a lock. What a module needs from outside
is handed to its constructor (settings, the server's id, the wall clock) or comes from its loop (time and timers).
"""
