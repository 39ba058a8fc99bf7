"""The page on which a browser logs in with a token, and out again."""

from __future__ import annotations

import re
from http import HTTPStatus
from urllib.parse import parse_qs

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from monitor.service.access.gate import Gate
from monitor.service.access.scopes import Scope
from monitor.service.errors import NoAccessError
from monitor.service.web.page import Pages
from monitor.service.web.requests import host_of, refusal_of
from monitor.service.web.sessions import COOKIE, SECONDS, Sessions

_MOST_BYTES = 16_384
# An address of this service: a browser takes // and /\ for the beginning of another host.
_HERE = re.compile(r"/(?![/\\])[^\x00-\x20\\]*")


def add_login(app: FastAPI, gate: Gate, sessions: Sessions, pages: Pages, *, encrypted: bool) -> None:
    """Add the page to the application.

    Args:
        encrypted: whether browsers reach the service by https alone, so that the cookie goes nowhere else.
    """

    @app.get("/login", include_in_schema=False)
    async def login(request: Request, to: str = "/") -> Response:
        page = pages.login(_here(to), "", is_in=sessions.is_in(request), closed=gate.closed)
        return Response(page, media_type="text/html")

    @app.post("/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        form = await _form(request)
        to, secret = _here(form.get("to", "/")), form.get("token", "").strip()
        try:
            digest = await gate.admit(f"Bearer {secret}", Scope.READ, host_of(request), "/login")
        except NoAccessError as error:
            status, headers = refusal_of(error)
            # Otherwise the browser would ask for a password in a window of its own.
            headers.pop("WWW-Authenticate", None)
            page = pages.login(to, str(error), is_in=False, closed=gate.closed)
            return Response(page, status, headers, media_type="text/html")
        response = RedirectResponse(to, HTTPStatus.SEE_OTHER)
        if digest is not None:
            # Lax: links in Grafana and in alerts lead here, and a strict cookie would not come along with them. Nothing
            # but this login and its end is ever sent to the service from a page.
            response.set_cookie(
                COOKIE, sessions.begin(digest), SECONDS, httponly=True, samesite="lax", secure=encrypted
            )
        return response

    @app.post("/logout", include_in_schema=False)
    async def log_out(request: Request) -> Response:
        await _form(request)
        sessions.end(request.cookies.get(COOKIE, ""))
        response = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        response.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=encrypted)
        return response


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form that a page of this service sent."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "another site sent this form; log in on the page of the service itself")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise HTTPException(413, f"a form of more than {_MOST_BYTES} bytes; a token has fewer than 100")
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


def _here(to: str) -> str:
    return to if _HERE.fullmatch(to) else "/"
