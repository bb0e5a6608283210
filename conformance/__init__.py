"""Other people's test suites, run against a server of ours: ``python -m conformance``.

Imports point down::

    __main__ -> report -> known
    __main__ -> interop | connect | grpcurl -> generated | child -> go -> outcome
    servers -> kinds

The suites' programs are in Go. They are fetched and built when they are first needed, into ``build/conformance``, and
so is the Python code of their services; nothing of theirs is committed. What they call is in ``servers/``: written for
grpc.aio, run in processes of its own, and the same whether grpcio or Atoll serves it.
"""
