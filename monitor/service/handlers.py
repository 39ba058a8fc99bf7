"""Handlers of gRPC calls with something that happens before they are called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from grpc.aio import ServicerContext

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continue: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
Prepare: TypeAlias = "Callable[[Any, ServicerContext[Any, Any]], Awaitable[Any]]"


def prepared(handler: Handler, parse: Callable[[bytes], Any] | None, prepare: Prepare) -> Handler:
    """Return a handler that is called with what becomes of its requests.

    Args:
        parse: makes requests of bytes, before everything else; None leaves them bytes.
        prepare: takes a request, or the iterator over those of a stream, and returns what the handler is called with.
            It may abort the call.
    """
    # Whichever it has.
    answers: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

    async def one(request: Any, context: ServicerContext[Any, Any]) -> Any:
        return await answers(await prepare(request, context), context)

    async def many(request: Any, context: ServicerContext[Any, Any]) -> None:
        answered = answers(await prepare(request, context), context)
        if isinstance(answered, AsyncIterator):
            async for response in answered:
                await context.write(response)
        else:
            await answered

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[(handler.request_streaming, handler.response_streaming)]
    behaviour: Any = many if handler.response_streaming else one
    return make(behaviour, parse, handler.response_serializer)
