"""Which interpreter a test's processes run on.

Free-threaded builds have no grpcio but its Python half (`tests/without_grpcio`), so `scripts/run_pytest.py` runs the
suite twice there. First as ever: servers on the free-threaded interpreter, clients in processes of a second one. Then
the tests marked `server_process`, whose clients are in pytest's own process: by the second interpreter, with servers on
the free-threaded one.
"""

import os
import sys

# grpcio's clients, and its own servers.
CLIENT_PYTHON = os.environ.get("ATOLL_CLIENT_PYTHON", sys.executable)
# Servers that a client in pytest's own process calls.
SERVER_PYTHON = os.environ.get("ATOLL_SERVER_PYTHON", sys.executable)

HAS_WHOLE_GRPCIO = "ATOLL_CLIENT_PYTHON" not in os.environ
