"""Calls by gRPC at the gate: each by what its method asks for, before anything of it is read."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc.aio import ServerInterceptor, ServicerContext

from monitor.service.access.gate import Gate
from monitor.service.access.scopes import Scope, scope_of_call
from monitor.service.errors import MissingScopeError, NoAccessError
from monitor.service.handlers import Continue, Handler, prepared

logger = logging.getLogger(__name__)


class CallsAtTheGate(ServerInterceptor):
    """Lets calls through, or answers them with why not.

    Args:
        reflection: whether reflection was asked for, where the service is closed otherwise.
    """

    def __init__(self, gate: Gate, *, reflection: bool) -> None:
        self._gate = gate
        self._reflection = reflection

    async def intercept_service(
        self, continuation: Continue, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Return what answers the call."""
        method = str(handler_call_details.method)
        handler = await continuation(handler_call_details)
        scope = scope_of_call(method, reflection=self._reflection)
        if scope is None or handler is None:
            return handler
        is_stream = handler.request_streaming

        async def prepare(request: Any, context: ServicerContext[Any, Any]) -> Any:
            digest = await _admit(self._gate, scope, method, context)
            return _while_good(request, self._gate, digest, scope) if is_stream else request

        return prepared(handler, handler.request_deserializer, prepare)


_STATUS = {True: grpc.StatusCode.PERMISSION_DENIED, False: grpc.StatusCode.UNAUTHENTICATED}


async def _admit(gate: Gate, scope: Scope, method: str, context: ServicerContext[Any, Any]) -> bytes | None:
    given = dict(context.invocation_metadata() or ()).get("authorization")
    try:
        return await gate.admit(None if given is None else str(given), scope, _host(context.peer()), method)
    except NoAccessError as error:
        await context.abort(_STATUS[isinstance(error, MissingScopeError)], str(error))


async def _while_good(
    requests: AsyncIterator[Any], gate: Gate, digest: bytes | None, scope: Scope
) -> AsyncIterator[Any]:
    """Yield requests while the token is good: a stream lasts as long as a training does."""
    async for request in requests:
        try:
            gate.check(digest, scope)
        except NoAccessError as error:
            # Not a failed attempt: whoever holds a token that was good does not count as guessing.
            logger.warning("refused: a stream that was open is ended: %s", error)
            raise
        yield request


def _host(peer: str) -> str:
    """Return the host of what gRPC calls a peer, such as ipv4:127.0.0.1:40000 or ipv6:%5B::1%5D:40000."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]") or peer
