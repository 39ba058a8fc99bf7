"""While another service has the store: calls and health checks are answered with that.

One that stands by shows nothing of the runs: what it would show is not their present.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
from grpc.aio import ServerInterceptor, ServicerContext
from grpc_health.v1 import health, health_pb2

from monitor.service.background import in_background
from monitor.service.handlers import Continue, Handler, prepared
from monitor.service.recording.recorder import Recorder
from monitor.wire.channel import ANSWERED
from monitor.wire.monitor_pb2 import DESCRIPTOR

SERVICE_NAME = DESCRIPTOR.services_by_name["MonitorService"].full_name

_LOOK_EVERY_SECONDS = 0.5


class CallsStandingBy(ServerInterceptor):
    """Answers calls with who has the store, while it is another service."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def intercept_service(
        self, continuation: Continue, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Return what answers the call."""
        handler = await continuation(handler_call_details)
        if handler is None or not str(handler_call_details.method).startswith(f"/{SERVICE_NAME}/"):
            return handler

        async def prepare(request: Any, context: ServicerContext[Any, Any]) -> Any:
            if self._recorder.stands_by:
                await context.abort(grpc.StatusCode.UNAVAILABLE, self._recorder.stands_by, ANSWERED)
            return request

        return prepared(handler, handler.request_deserializer, prepare)


def watching(
    recorder: Recorder, checks: health.aio.HealthServicer, count_failure: Callable[[], object]
) -> AbstractAsyncContextManager[None]:
    """Take the store as soon as it is free, and let health checks say whether it is, while the context is open."""
    return in_background(
        lambda: _watch(recorder, checks),
        "looking who has the store",
        meanwhile="this service takes over from no other, and does not see that another has taken over from it",
        count_failure=count_failure,
    )


async def _watch(recorder: Recorder, checks: health.aio.HealthServicer) -> None:
    while True:
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
        try:
            await recorder.keep()
        finally:
            await tell_health(recorder, checks)


async def tell_health(recorder: Recorder, checks: health.aio.HealthServicer) -> None:
    """Let health checks say whether this service serves."""
    response = health_pb2.HealthCheckResponse
    for name in ("", SERVICE_NAME):
        await checks.set(name, response.NOT_SERVING if recorder.stands_by else response.SERVING)
