"""Bytes that are no message of the contract are refused in words.

Left alone, gRPC writes a traceback into the service's log for each, and its answer sounds as if another try might help.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc.aio import ServerInterceptor, ServicerContext

from monitor.service.errors import UnreadableRequestError
from monitor.service.handlers import Continue, Handler, prepared


class ReadableRequests(ServerInterceptor):
    """Parses requests within the call, where what cannot be parsed has an answer of its own."""

    async def intercept_service(
        self, continuation: Continue, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Return what answers the call."""
        handler = await continuation(handler_call_details)
        if handler is None or (parse := handler.request_deserializer) is None:
            return handler
        is_stream = handler.request_streaming

        async def prepare(given: Any, context: ServicerContext[Any, Any]) -> Any:
            if is_stream:
                return _each_parsed(parse, given)
            try:
                return _parsed(parse, given)
            except UnreadableRequestError as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

        return prepared(handler, None, prepare)


async def _each_parsed(parse: Callable[[bytes], Any], requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _parsed(parse, request)


def _parsed(parse: Callable[[bytes], Any], request: bytes) -> Any:
    try:
        return parse(request)
    except DecodeError as error:
        raise UnreadableRequestError(
            f"{len(request)} bytes came that are no request of this service: {error}. A client of another program must "
            "send what proto/sparsity_monitor/v1/monitor.proto says"
        ) from error
