"""What a client of the HTTP side asks for: a page or JSON, compressed or not, with or without the body."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


def prefers_page(accept: str) -> bool:
    """Return whether a header Accept asks for HTML rather than JSON; who takes anything gets JSON.

    >>> prefers_page("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), prefers_page("*/*")
    (True, False)
    """
    qualities = _qualities(accept)
    # What is named more closely counts before what stands for it and others.
    page = qualities.get("text/html", qualities.get("text/*", 0))
    return page > qualities.get("application/json", qualities.get("application/*", 0))


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a header Accept-Encoding asks for gzip.

    >>> accepts_gzip("gzip, deflate"), accepts_gzip("gzip;q=0, *"), accepts_gzip("")
    (True, False, False)
    """
    qualities = _qualities(accept_encoding)
    return qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0))) > 0


def _qualities(header: str) -> dict[str, float]:
    found = {}
    for each in header.lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        if name:
            found[name] = next((_quality(part[2:]) for part in parameters if part.startswith("q=")), 1.0)
    return found


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


class HeadIsGet:
    """Answers HEAD as GET, with the same headers and without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, without_body)
