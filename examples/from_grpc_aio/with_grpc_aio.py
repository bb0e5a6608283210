"""Step 0: the service on grpc.aio's own server."""

import asyncio

import grpc.aio
import service


async def main() -> None:
    server = grpc.aio.server(interceptors=[service.TokenInterceptor()])
    await service.add_everything(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


asyncio.run(main())
