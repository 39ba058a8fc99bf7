"""What a client of the HTTP side asks for: page or JSON, which format of metrics, compression, the body or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

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


def metrics_format(accept: str) -> str:
    """Return the format of metrics that a header Accept likes best, as a header Accept that asks for nothing else.

    There are OpenMetrics 1.0.0 and Prometheus' text, which is also for who asks for neither. Whichever way names are to
    be escaped, the service has none with anything to escape: they are the same for everybody.

    >>> metrics_format("application/openmetrics-text;version=2.0.0,application/openmetrics-text;version=1.0.0;q=0.5")
    'application/openmetrics-text;version=1.0.0'
    >>> metrics_format("text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.5")
    'text/plain;version=0.0.4'
    """
    wanted = sorted(_ranges(accept), key=lambda each: each.quality, reverse=True)
    formats = (_format(each.name, each.parameters.get("version", "")) for each in wanted if each.quality > 0)
    return next(filter(None, formats), _TEXT)


_TEXT = "text/plain;version=0.0.4"


def _format(name: str, version: str) -> str | None:
    # Version 2 calls counters and infos differently; what is written here would be no such text.
    if name == "application/openmetrics-text" and version.partition(".")[0] in ("", "1"):
        return "application/openmetrics-text;version=1.0.0"
    if name == "text/plain" and version == "1.0.0":
        return "text/plain;version=1.0.0"
    return _TEXT if name in ("text/plain", "text/*", "*/*") else None


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a header Accept-Encoding asks for gzip.

    >>> accepts_gzip("gzip, deflate"), accepts_gzip("gzip;q=0, *"), accepts_gzip("")
    (True, False, False)
    """
    qualities = _qualities(accept_encoding)
    return qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0))) > 0


class _Range(NamedTuple):
    """One entry of a header Accept or Accept-Encoding."""

    name: str
    parameters: Mapping[str, str]
    quality: float


def _qualities(header: str) -> dict[str, float]:
    return {each.name: each.quality for each in _ranges(header)}


def _ranges(header: str) -> Iterator[_Range]:
    for each in header.lower().split(","):
        name, *rest = (part.strip() for part in each.split(";"))
        pairs = (part.partition("=") for part in rest)
        parameters = {key.strip(): value.strip().strip('"') for key, _, value in pairs}
        if name:
            yield _Range(name, parameters, _quality(parameters.get("q", "1")))


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


class HeadIsGet:
    """Answers HEAD as GET, with the same headers and without the body.

    An answer without an end asks for `is_head`, and leaves it out.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET", _IS_HEAD: True}, receive, without_body)


_IS_HEAD = "sparsity_monitor.is_head"


def is_head(scope: Scope) -> bool:
    """Return whether a request that looks like GET was HEAD."""
    return _IS_HEAD in scope
