"""Makes one call with grpcio's own client and checks the reply: ``python -m benchmarks.verify PROTOS PORT``.

A process of its own, so that the threads grpcio starts don't run beside the measurements.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import grpc

from benchmarks import protos


def main() -> None:
    """Call the server once and print the length of the reply on the wire.

    Raises:
        SystemExit: the reply differs from the request.
    """
    generated = protos.load(Path(sys.argv[1]))
    with grpc.insecure_channel(f"127.0.0.1:{int(sys.argv[2])}") as channel:
        request = generated.request(sequence=protos.SEQUENCE, text=protos.TEXT)
        reply = generated.stub(channel).Say(request, timeout=10.0, wait_for_ready=True)
    if (reply.sequence, reply.text) != (protos.SEQUENCE, protos.TEXT):
        sys.exit(f"the server should echo {request!r} but answered {reply!r}")
    sys.stdout.write(json.dumps({"reply_bytes": len(protos.frame(reply.SerializeToString()))}) + "\n")


if __name__ == "__main__":
    main()
