"""``python -m benchmarks.overloading atoll|grpc_aio`` serves; ``... load PORT SECONDS`` calls."""

from __future__ import annotations

import sys

from benchmarks.overloading import load, servers


def main() -> None:
    """Run the process that the command line names."""
    match sys.argv[1:]:
        case ["load", port, seconds]:
            load.run(int(port), float(seconds))
        case [server]:
            servers.run(server)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
