"""Requests over HTTP at the gate: programs with a token in a header, browsers with the cookie of a login."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from monitor.service.access.gate import Gate
from monitor.service.access.refusals import SECONDS
from monitor.service.access.scopes import Scope, scope_of_path
from monitor.service.errors import MissingScopeError, NoAccessError, TooManyFailuresError
from monitor.service.web.negotiation import prefers_page
from monitor.service.web.sessions import COOKIE, Sessions

Answer = Callable[[Request, int, str, Mapping[str, str]], Response]


class RequestsAtTheGate:
    """Lets requests through, or answers them with why not.

    Args:
        answer: makes the response to what cannot be answered.
    """

    def __init__(self, app: ASGIApp, gate: Gate, sessions: Sessions, answer: Answer) -> None:
        self._app = app
        self._gate = gate
        self._sessions = sessions
        self._answer = answer

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        refusal = await self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (self._app if refusal is None else refusal)(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        # Not of the URL: that begins with the header Host, which may say anything.
        path = str(request.scope["path"])
        wanted = scope_of_path(path)
        if wanted is None or not self._gate.closed:
            return None
        authorization, cookie = request.headers.get("authorization"), request.cookies.get(COOKIE, "")
        digest = self._sessions.digest(cookie)
        if authorization is None and digest is None and prefers_page(request.headers.get("accept", "")):
            return _to_login(request)
        try:
            if authorization is None and cookie:
                self._check(digest, wanted)
            else:
                await self._gate.admit(authorization, wanted, host_of(request), path)
        except NoAccessError as error:
            status, headers = refusal_of(error)
            return self._answer(request, status, str(error), headers)
        return None

    def _check(self, digest: bytes | None, wanted: Scope) -> None:
        # No failed attempt, and not logged as one: a page that is left open asks again and again.
        if digest is None:
            raise NoAccessError("the login is over, or the service was started again: log in at /login")
        self._gate.check(digest, wanted)


def refusal_of(error: NoAccessError) -> tuple[HTTPStatus, dict[str, str]]:
    """Return the status of a refusal, and the headers that go with it."""
    if isinstance(error, MissingScopeError):
        return HTTPStatus.FORBIDDEN, {}
    if isinstance(error, TooManyFailuresError):
        return HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": f"{SECONDS:.0f}"}
    return HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Bearer realm="sparsity-monitor"'}


def host_of(request: Request) -> str:
    """Return who asks."""
    return request.client.host if request.client else "unknown"


def _to_login(request: Request) -> Response:
    query = request.scope["query_string"].decode("latin-1")
    asked = quote(request.scope["path"]) + (f"?{query}" if query else "")
    return RedirectResponse(f"/login?to={quote(asked, safe='')}", HTTPStatus.SEE_OTHER)
