"""Post and run, measured in a process of its own: ``python -m benchmarks.posting ROUNDS PAIRS`` (see ``__main__``)."""
