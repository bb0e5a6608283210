"""The processes of the overload benchmark: two servers with the same handlers, and the load."""

from typing import Final

BULK: Final = "/atoll.benchmarks.Overload/Scan"
BEAT: Final = "/atoll.benchmarks.Overload/Beat"
SCAN_SECONDS: Final = 0.002
"""How long one bulk call keeps its loop busy: 500 a second are all that a loop can do."""
OVERLOAD: Final = 5
BEATS_PER_SECOND: Final = 50
DEADLINE: Final = 1.0
LIMIT: Final = 100
"""`maximum_concurrent_rpcs` of grpc.aio."""
