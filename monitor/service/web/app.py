"""The service over HTTP: /metrics, /healthz, /readyz, /api and the pages."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client.exposition import choose_encoder
from starlette.exceptions import HTTPException as StarletteHTTPException

from monitor.service.access.gate import Gate
from monitor.service.errors import StoreError, shortened
from monitor.service.live.runs import LiveRun, LiveRuns
from monitor.service.metrics.exposition import Exposition
from monitor.service.quantities.labels import criterion_label
from monitor.service.recording.recorder import Recorder
from monitor.service.settings import ServiceSettings
from monitor.service.storage.stored import START, StoredItem, after_step
from monitor.service.web.api import HistoryJson, ObservationJson, RunDetailJson, RunsJson
from monitor.service.web.interface.examples import add_examples
from monitor.service.web.interface.models import PROBLEM, ProblemJson
from monitor.service.web.interface.routes import PREFIX, add_interface
from monitor.service.web.login import add_login
from monitor.service.web.negotiation import HeadIsGet, accepts_gzip, metrics_format, prefers_page
from monitor.service.web.page import Pages
from monitor.service.web.requests import Answer, RequestsAtTheGate
from monitor.service.web.sessions import Sessions
from monitor.service.web.standing_by import requests_standing_by
from monitor.service.web.views import observation_json, run_detail_json, run_json
from monitor.version import __version__

_DESCRIPTION = """What training runs report of how sparse their weight updates are, to be read by programs.

`/api/v1` goes on as it is; the addresses below `/api` alone are older, and have less. Cumulative sparsity is measured
against the base, step sparsity against the previous observation; both by the `criterion` and in the `visible_dtype`
beside them. Times are in seconds since 1970-01-01 UTC.

Where the service asks for a token, send one that has the scope read: `Authorization: Bearer TOKEN`. What cannot be
answered below `/api/v1` is a problem as in RFC 9457, whose `detail` says why and what to do.
"""
_HISTORY_PAGE_ITEMS = 256
_READY_WITHIN_SECONDS = 5
_MOST_COMPARED = 20

# The page loads nothing from other hosts, and sends forms to none (a login, and its end), no other page may frame it,
# and browsers may not guess content types.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
# The icon is the same in every answer: a browser asks once a day, however many pages it shows.
_KEPT = {"Cache-Control": "public, max-age=86400, immutable"}
# Their address has their version.
_KEPT_A_YEAR = {"Cache-Control": "public, max-age=31536000, immutable"}
# The overview sorts, filters and goes on: scripts come from here alone, and what they read.
_SCRIPTED = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
}
# Other pages draw as well. plotly.js puts a style sheet of its own and styles of single elements into the page, and
# paints heatmaps as images in `data:` addresses; no script can.
_DRAWING = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
}


class _Application(FastAPI):
    """Describes itself with examples."""

    def openapi(self) -> dict[str, Any]:
        description = super().openapi()
        add_examples(description, PREFIX)
        return description


def build_app(
    settings: ServiceSettings,
    recorder: Recorder,
    exposition: Exposition,
    is_serving: Callable[[], bool],
    gate: Gate,
) -> FastAPI:
    """Return the web application over the live state and the store.

    Args:
        is_serving: whether the service takes what runs report, and is not stopping.
    """
    # The interactive documentation loads scripts from elsewhere; the schema itself is served.
    app = _Application(
        title="sparsity-monitor",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    pages, sessions = Pages(settings, recorder), Sessions()
    answer = _add_problems(app, pages, sessions)
    # What is added later comes first.
    app.middleware("http")(requests_standing_by(recorder, answer))
    app.add_middleware(RequestsAtTheGate, gate=gate, sessions=sessions, answer=answer)
    app.middleware("http")(_with_headers)
    app.add_middleware(HeadIsGet)
    add_login(app, gate, sessions, pages, encrypted=_is_encrypted(settings))
    _add_health(app, recorder, is_serving)
    _add_metrics(app, recorder, exposition)
    _add_api(app, settings, recorder)
    add_interface(app, settings, recorder, lambda: is_serving() and not recorder.stands_by)
    _add_pages(app, pages, sessions, recorder.live)
    return app


async def _with_headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _is_encrypted(settings: ServiceSettings) -> bool:
    """Return whether browsers come by https alone: the service itself speaks it, or what stands before it does."""
    return settings.tls_certificate is not None or settings.service_url.startswith("https:")


def _add_problems(app: FastAPI, pages: Pages, sessions: Sessions) -> Answer:
    """Answer what cannot be answered with a page for people and with JSON for programs, and return what does that."""

    def answer(request: Request, status: int, detail: Any, headers: Mapping[str, str] | None = None) -> Response:
        shown = {"Vary": "Accept", **(headers or {})}
        if "Allow" in shown:
            shown["Allow"] = "GET, HEAD"
        if prefers_page(request.headers.get("accept", "")):
            page = pages.problem(HTTPStatus(status).phrase, _in_words(detail), is_in=sessions.is_in(request))
            return Response(page, status, shown, media_type="text/html")
        if request.url.path.startswith(f"{PREFIX}/"):
            return _problem(request, status, detail, shown)
        return JSONResponse({"detail": detail}, status, shown)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        return answer(request, error.status_code, _explained(request, error), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, 422, jsonable_encoder(error.errors()))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return answer(request, 500, "the service failed at this; its log says where", _HEADERS)

    @app.exception_handler(StoreError)
    async def failed(request: Request, error: StoreError) -> Response:
        return answer(request, 503, str(error))

    return answer


def _problem(request: Request, status: int, detail: Any, headers: Mapping[str, str]) -> Response:
    problem = ProblemJson(
        title=HTTPStatus(status).phrase, status=status, detail=_in_words(detail), instance=request.url.path
    )
    return Response(problem.model_dump_json(), status, headers, media_type=PROBLEM)


def _explained(request: Request, error: StarletteHTTPException) -> str:
    # What the framework says is the phrase of the status alone.
    if error.detail != HTTPStatus(error.status_code).phrase:
        return error.detail
    path = shortened(request.url.path)
    match error.status_code:
        case 404:
            return f"there is nothing at {path}; / has the runs, /api/openapi.json describes the API, /metrics the rest"
        case 405:
            return f"{path} can be read only, with GET or HEAD: runs report by gRPC"
        case _:
            return error.detail


def _in_words(detail: Any) -> str:
    if isinstance(detail, str):
        return detail
    return "; ".join(f"{' '.join(map(str, each['loc']))}: {each['msg']}, {each['input']} was given" for each in detail)


def _add_health(app: FastAPI, recorder: Recorder, is_serving: Callable[[], bool]) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "The service takes nothing now; `detail` says why."}})
    async def readyz() -> dict[str, str]:
        if not is_serving():
            raise HTTPException(503, "the service is stopping")
        try:
            await asyncio.wait_for(recorder.ping(), _READY_WITHIN_SECONDS)
        except (StoreError, TimeoutError) as error:
            reason = str(error) or f"the store did not answer within {_READY_WITHIN_SECONDS} seconds"
            raise HTTPException(503, reason) from error
        return {"status": "ready"}


def _add_metrics(app: FastAPI, recorder: Recorder, exposition: Exposition) -> None:
    one_at_a_time = asyncio.Lock()

    written: dict[str, dict[str, str]] = {"text/plain": {}, "application/openmetrics-text": {}}

    @app.get("/metrics", response_class=Response, responses={200: {"content": written}})
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(metrics_format(request.headers.get("accept", "")))
        # In a thread: the exposition of a large fleet takes a second, and acknowledgements must not wait for it.
        compressed = accepts_gzip(request.headers.get("accept-encoding", ""))
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if compressed:
            headers["Content-Encoding"] = "gzip"
        async with one_at_a_time:
            is_present = await recorder.is_present()
            text = await asyncio.to_thread(exposition.text, encode, content_type, with_runs=is_present)
            if compressed:
                # The fastest level: the names that repeat make up most of it.
                text = await asyncio.to_thread(gzip.compress, text, compresslevel=1, mtime=0)
        return Response(text, headers=headers)


_NO_RUN: dict[int | str, dict[str, Any]] = {404: {"description": "No such run; `detail` says more."}}


def _add_api(app: FastAPI, settings: ServiceSettings, recorder: Recorder) -> None:
    def find(run_id: str) -> LiveRun:
        run = recorder.live.get(run_id)
        if run is None:
            raise HTTPException(404, _no_run(run_id))
        return run

    # No coroutines: FastAPI calls plain functions in threads, and the JSON of a run with many groups takes a while.
    @app.get("/api/runs")
    def runs() -> RunsJson:
        now = time.time()
        return RunsJson(runs=[run_json(run, now, settings) for run in recorder.live.all()])

    @app.get("/api/runs/{run_id}", responses=_NO_RUN)
    def run_detail(run_id: str) -> RunDetailJson:
        return run_detail_json(find(run_id), time.time(), settings)

    @app.get("/api/runs/{run_id}/history", response_model=HistoryJson, responses=_NO_RUN)
    async def history(run_id: str, after_step: int = -1) -> Response:
        found = await _history(recorder, find(run_id), after_step)
        # What was read of a run that was deleted meanwhile is not all of it.
        find(run_id)
        return Response(await asyncio.to_thread(found.model_dump_json), media_type="application/json")


def _no_run(run_id: str) -> str:
    return f"run {shortened(run_id)} is not in this store; /api/runs names those that are"


async def _history(recorder: Recorder, run: LiveRun, step: int) -> HistoryJson:
    observations = []
    after = after_step(step) if step >= 0 else START
    # Page by page: totals are small, but the observations that are summed are not.
    while page := await recorder.history(run.run_id, after, _HISTORY_PAGE_ITEMS, "observation"):
        # An attempt may have been registered while the pages are read.
        run = recorder.live.get(run.run_id) or run
        # In a thread, as above: acknowledgements must not wait for it.
        observations += await asyncio.to_thread(_described, page, run)
        after = page[-1].position
    return HistoryJson(
        run_id=run.run_id,
        criterion=criterion_label(run.registration.criterion),
        visible_dtype=run.registration.visible_dtype,
        weights=run.weights,
        observations=observations,
    )


def _described(page: list[StoredItem], run: LiveRun) -> list[ObservationJson]:
    return [observation_json(stored, run) for stored in page]


def _add_pages(app: FastAPI, pages: Pages, sessions: Sessions, live: LiveRuns) -> None:
    @app.get("/", include_in_schema=False)
    async def overview(request: Request) -> Response:
        page = await pages.overview(time.time(), is_in=sessions.is_in(request))
        return Response(page, headers=_SCRIPTED, media_type="text/html")

    @app.get("/runs/{run_id}", include_in_schema=False)
    def run_page(request: Request, run_id: str) -> Response:
        page = pages.run(run_id, time.time(), is_in=sessions.is_in(request))
        if page is None:
            raise HTTPException(404, _no_run(run_id))
        return Response(page, headers=_DRAWING, media_type="text/html")

    @app.get("/compare", include_in_schema=False)
    def compare(request: Request, run: Annotated[Sequence[str], Query()] = ()) -> Response:
        ids = list(dict.fromkeys(run))
        if not 2 <= len(ids) <= _MOST_COMPARED:
            given = "1 run was" if len(ids) == 1 else f"{len(ids)} runs were"
            raise HTTPException(422, f"{given} given; tick 2 to {_MOST_COMPARED} of those at /")
        unknown = [each for each in ids if live.get(each) is None]
        if unknown:
            raise HTTPException(404, _no_run(unknown[0]))
        found = [each for each in map(live.get, ids) if each is not None]
        page = pages.compare(found, time.time(), is_in=sessions.is_in(request))
        return Response(page, headers=_DRAWING, media_type="text/html")

    @app.get("/assets/{version}/{name}", include_in_schema=False)
    def asset(request: Request, version: str, name: str) -> Response:
        if version != pages.assets.version or name not in pages.assets.files:
            raise HTTPException(404, "this version of the service has no such script; load the page again")
        headers = {**_KEPT_A_YEAR, "ETag": pages.assets.tag, "Vary": "Accept-Encoding"}
        if request.headers.get("if-none-match") == pages.assets.tag:
            return Response(status_code=304, headers=headers)
        if not accepts_gzip(request.headers.get("accept-encoding", "")):
            return FileResponse(pages.assets.files[name], headers=headers, media_type="text/javascript")
        headers["Content-Encoding"] = "gzip"
        return Response(pages.assets.compressed(name), headers=headers, media_type="text/javascript")

    @app.get("/runbook", include_in_schema=False)
    async def runbook(request: Request) -> Response:
        return Response(pages.runbook(is_in=sessions.is_in(request)), media_type="text/html")

    @app.get("/style.css", include_in_schema=False)
    async def style() -> Response:
        return Response(pages.style, media_type="text/css")

    @app.get("/icon.svg", include_in_schema=False)
    async def icon() -> Response:
        return Response(pages.icon, headers=_KEPT, media_type="image/svg+xml")

    # What browsers ask for by themselves, such as beside /metrics and JSON.
    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon() -> Response:
        return Response(pages.favicon, headers=_KEPT, media_type="image/x-icon")
