"""The servers that are measured, one file each: ``python -m benchmarks.servers NAME PROTOS``.

Each module has ``serve(control)``, which announces its port and returns only when the process ends.
"""
