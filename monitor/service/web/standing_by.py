"""While another service has the store: requests are answered with that.

One that stands by shows nothing of the runs: what it would show is not their present.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi import Request, Response

from monitor.service.recording.recorder import Recorder
from monitor.service.web.requests import Answer

# What is the same whoever serves, or says itself that another does.
_ANSWERED_ALWAYS = frozenset(
    {"/healthz", "/readyz", "/metrics", "/login", "/logout", "/runbook", "/style.css", "/icon.svg", "/favicon.ico"}
)


def requests_standing_by(
    recorder: Recorder, answer: Answer
) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Return a middleware that answers requests with who has the store, while it is another service."""

    async def pass_or_say(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        if recorder.stands_by and request.url.path not in _ANSWERED_ALWAYS:
            return answer(request, HTTPStatus.SERVICE_UNAVAILABLE, recorder.stands_by, {"Retry-After": "1"})
        return await go_on(request)

    return pass_or_say
