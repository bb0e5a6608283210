"""The interceptor of the servers that have one."""

from __future__ import annotations

from typing import Any

import grpc.aio


class Passing(grpc.aio.ServerInterceptor):
    """Lets every call pass."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """See grpc.aio."""
        return await continuation(handler_call_details)
