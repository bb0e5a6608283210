"""Step 1: the same on Atoll's server; one line differs (and its import), no thread does."""

import asyncio

import service

from atoll import rpc


async def main() -> None:
    server = rpc.server(interceptors=[service.TokenInterceptor()])
    await service.add_everything(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


asyncio.run(main())
