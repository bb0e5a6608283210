"""Step 2: the journal moves onto a loop of its own, where it delays nobody but its own callers."""

import asyncio

import service

from atoll import IoContextThread, rpc


async def main() -> None:
    with IoContextThread("journal") as journal:
        server = rpc.server(interceptors=[service.TokenInterceptor()])
        await service.add_everything(server, server.on(journal.io_context))
        port = server.add_insecure_port("127.0.0.1:0")
        print(port, flush=True)
        await rpc.serve(server, grace=5)


asyncio.run(main())
