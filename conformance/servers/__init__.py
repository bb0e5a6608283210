"""The suites' services, written for grpc.aio, and the processes that serve them: by grpcio, or by Atoll.

``python -m conformance.servers.interop`` and ``python -m conformance.servers.connect``.
"""
