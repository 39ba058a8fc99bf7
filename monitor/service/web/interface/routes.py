"""The addresses of /api/v1. What cannot be answered is a problem as in RFC 9457, see web/app.py."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Header, HTTPException, Path, Query, Request, Response
from pydantic import WithJsonSchema

from monitor.limits import MAX_INTEGER
from monitor.service.errors import shortened
from monitor.service.live.runs import LiveRun
from monitor.service.quantities.labels import criterion_label
from monitor.service.quantities.run_state import RunState
from monitor.service.recording.recorder import Recorder
from monitor.service.settings import ServiceSettings
from monitor.service.storage.queries.curves import Curve, Range
from monitor.service.web.api import ReferenceJson, VerdictJson
from monitor.service.web.interface import examples, tables
from monitor.service.web.interface.describe import (
    GROUP_FIELDS,
    PATTERN,
    GroupCurves,
    attempts_of,
    curve_json,
    fields_of,
    groups_at,
    incomparable,
    is_field,
)
from monitor.service.web.interface.events import Watchers, add_events
from monitor.service.web.interface.models import (
    PROBLEMS,
    ComparedRunJson,
    ComparisonJson,
    GroupsHistoryJson,
    GroupsJson,
    HistoryV1Json,
    RunsPageJson,
    RunV1Json,
    problem,
)
from monitor.service.web.views import run_detail_json, run_json, thinned_json

PREFIX = "/api/v1"
# Versions of runs are of one process.
_PROCESS = secrets.token_hex()

_Points = Annotated[int, Query(ge=1, le=10_000, description="How many buckets of steps at most.")]
_GroupPoints = Annotated[int, Query(ge=1, le=1_000, description="How many observations at most.")]
_FromStep = Annotated[int | None, Query(ge=0, le=MAX_INTEGER, description="By default the first step there is.")]
_ToStep = Annotated[int | None, Query(ge=0, le=MAX_INTEGER, description="By default the last step there is.")]
_RunId = Annotated[str, Path(description="A run's id, as in its page's address.", examples=[examples.RUN_ID])]
# Described to programs, and checked by hand: to say what was expected in better words.
_Label = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[^=]*=", "examples": ["algorithm=GRPO"]})]
_Group = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[^/]*/", "examples": ["07/self_attn.q_proj"]})]
_GroupField = Annotated[
    str,
    Query(description="Which quantity, of each group."),
    WithJsonSchema({"type": "string", "enum": list(GROUP_FIELDS)}),
]
_Field = Annotated[str, WithJsonSchema({"type": "string", "pattern": PATTERN, "examples": ["metric:loss"]})]
_Fields = Annotated[
    Sequence[_Field],
    Query(description="Names of curves, as `fields` of the run has them; give it several times for several."),
]
_IfNoneMatch = Annotated[str, Header(description="The ETag of an earlier answer: 304 if nothing is new.")]
_ETAG = {"ETag": {"description": "Give it as If-None-Match the next time.", "schema": {"type": "string"}}}
_DEFAULT_FIELDS = ("cumulative_sparsity", "step_sparsity")


def add_interface(app: FastAPI, settings: ServiceSettings, recorder: Recorder, is_serving: Callable[[], bool]) -> None:
    """Add the read interface to the application.

    Args:
        is_serving: whether the service goes on; events end when it does not.
    """
    router = APIRouter(prefix=PREFIX, responses=PROBLEMS)
    find = _finder(recorder)
    _add_runs(router, settings, recorder, find)
    _add_curves(router, recorder, find)
    _add_groups(router, recorder, find)
    add_events(router, Watchers(settings, recorder.live, is_serving), find)
    app.include_router(router)


def _finder(recorder: Recorder) -> Callable[[str], LiveRun]:
    def find(run_id: str) -> LiveRun:
        run = recorder.live.get(run_id)
        if run is None:
            raise HTTPException(
                404, f"run {shortened(run_id)} is not in this store; {PREFIX}/runs names those that are"
            )
        return run

    return find


def _add_runs(router: APIRouter, settings: ServiceSettings, recorder: Recorder, find: Callable[[str], LiveRun]) -> None:
    @router.get("/runs")
    def runs(
        state: Annotated[Sequence[RunState], Query(description="Only runs in one of these states.")] = (),
        label: Annotated[
            Sequence[_Label], Query(description="Only runs with this label, NAME=VALUE; several must all be there.")
        ] = (),
        search: Annotated[str, Query(description="Only runs with this in their name, id, model or labels.")] = "",
        after: Annotated[str | None, Query(description="The run that the page before ended with.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="How many runs at most.")] = 100,
    ) -> RunsPageJson:
        """List runs, the most recently registered first."""
        now = time.time()
        labels = [_label(each) for each in label]
        found = [
            run
            for run in recorder.live.all()
            if (not state or run.state(now, settings) in state)
            and all(run.registration.labels.get(name) == value for name, value in labels)
            and _has(run, search.casefold())
        ]
        page = _behind(found, after)
        shown = page[:limit]
        return RunsPageJson(
            runs=[run_json(run, now, settings) for run in shown],
            total=len(found),
            next_after=shown[-1].run_id if len(page) > limit else None,
        )

    @router.get("/runs/{run_id}")
    def run(run_id: _RunId) -> RunV1Json:
        """Describe one run as it stands now, with its groups and the names of its curves."""
        found = find(run_id)
        detail = run_detail_json(found, time.time(), settings)
        return RunV1Json(**detail.model_dump(), attempts=attempts_of(found), fields=fields_of(found))

    @router.get("/runs/{run_id}/verdict")
    def verdict(run_id: _RunId) -> VerdictJson | None:
        """Say what the latest observations mean, as the training judged them; null where it did not."""
        return run_json(find(run_id), time.time(), settings).verdict

    @router.get("/runs/{run_id}/references")
    def references(run_id: _RunId) -> list[ReferenceJson]:
        """List the overlap of the latest update mask with each reference mask."""
        return run_detail_json(find(run_id), time.time(), settings).references


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise HTTPException(422, f"label: {shortened(text)} was given; expected NAME=VALUE, such as algorithm=GRPO")
    return name, value


def _has(run: LiveRun, search: str) -> bool:
    registration = run.registration
    texts = (registration.name, registration.run_id, registration.model, *registration.labels.values())
    return any(search in text.casefold() for text in texts)


def _behind(runs: list[LiveRun], after: str | None) -> list[LiveRun]:
    if after is None:
        return runs
    places = [index for index, run in enumerate(runs) if run.run_id == after]
    if not places:
        raise HTTPException(404, f"after: no run {shortened(after)} matches; begin again without `after`")
    return runs[places[0] + 1 :]


def _add_curves(router: APIRouter, recorder: Recorder, find: Callable[[str], LiveRun]) -> None:
    @router.get(
        "/runs/{run_id}/history",
        response_model=HistoryV1Json,
        responses={
            200: {
                "content": {
                    "text/csv": {"schema": {"type": "string"}, "example": examples.CSV},
                    tables.ARROW: {"schema": {"type": "string", "format": "binary"}},
                },
                "headers": _ETAG,
            },
            304: {"description": "Nothing is new since the answer with the ETag that was given.", "headers": _ETAG},
            **problem(
                406,
                "The service has no pyarrow to write Arrow with.",
                "format: this service writes Arrow where pyarrow is installed beside it; ask for csv, or json",
            ),
        },
    )
    async def history(
        request: Request,
        run_id: _RunId,
        *,
        fields: _Fields = _DEFAULT_FIELDS,
        from_step: _FromStep = None,
        to_step: _ToStep = None,
        points: _Points = 1000,
        form: Annotated[
            Literal["json", "csv", "arrow"], Query(alias="format", description="CSV and Arrow: a row for each point.")
        ] = "json",
        if_none_match: _IfNoneMatch = "",
    ) -> Response:
        """Read curves of a run over its steps, thinned so that minimum, maximum and last value of each bucket stay."""
        found = find(run_id)
        _check_fields(fields)
        tag = _tag(found, str(request.url.query))
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if tag in [each.strip() for each in if_none_match.split(",")]:
            return Response(status_code=304, headers=headers)
        steps = await _steps(recorder, run_id, from_step, to_step, points)
        curves = await recorder.curves(run_id, fields, steps, found.weights) if steps else {}
        # What was read of a run that was deleted meanwhile is not all of it.
        find(run_id)
        body, kind = await asyncio.to_thread(_written, found, steps, curves, form)
        return Response(body, media_type=kind, headers=headers)

    @router.get("/compare")
    async def compare(
        run: Annotated[list[str], Query(min_length=2, max_length=20, description="Ids of the runs, two or more.")],
        field: Annotated[_Field, Query(description="The name of one curve.")] = "cumulative_sparsity",
        from_step: _FromStep = None,
        to_step: _ToStep = None,
        points: _Points = 1000,
    ) -> ComparisonJson:
        """Read one curve of several runs."""
        _check_fields([field])
        found = [find(each) for each in dict.fromkeys(run)]
        compared = []
        for one in found:
            steps = await _steps(recorder, one.run_id, from_step, to_step, points)
            curves = await recorder.curves(one.run_id, [field], steps, one.weights) if steps else {}
            find(one.run_id)
            curve = curve_json(field, curves[field]) if field in curves else None
            compared.append(ComparedRunJson(name=one.registration.name, curve=curve, **_measured(one)))
        return ComparisonJson(field=field, warning=incomparable(found), runs=compared)


def _check_fields(fields: Sequence[str]) -> None:
    unknown = [name for name in fields if not is_field(name)]
    if unknown:
        raise HTTPException(
            422, f"fields: {shortened(unknown[0])} was given; {PREFIX}/runs/RUN names in `fields` the curves of a run"
        )


def _tag(run: LiveRun, query: str) -> str:
    """Return what changes whenever the curves of a run do."""
    known = (_PROCESS, run.version, query)
    return f'W/"{hashlib.sha256(repr(known).encode()).hexdigest()[:16]}"'


async def _steps(
    recorder: Recorder, run_id: str, from_step: int | None, to_step: int | None, points: int
) -> Range | None:
    extent = await recorder.extent(run_id)
    if extent is None:
        return None
    first, last = max(extent[0], from_step or 0), min(extent[1], MAX_INTEGER if to_step is None else to_step)
    return Range.of(first, last, points) if first <= last else None


def _written(run: LiveRun, steps: Range | None, curves: dict[str, Curve], form: str) -> tuple[bytes, str]:
    if form == "csv":
        return tables.csv(curves, run.thinned), "text/csv; charset=utf-8"
    if form == "arrow":
        return tables.arrow(curves, run.thinned), tables.ARROW
    described = HistoryV1Json(
        **_measured(run),
        weights=run.weights,
        from_step=steps.first if steps else None,
        to_step=steps.last if steps else None,
        bucket_steps=steps.width if steps else 1,
        curves={name: curve_json(name, curve) for name, curve in curves.items()},
    )
    return described.model_dump_json().encode(), "application/json"


def _measured(run: LiveRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "criterion": criterion_label(run.registration.criterion),
        "visible_dtype": run.registration.visible_dtype,
        "thinned": thinned_json(run),
    }


def _add_groups(router: APIRouter, recorder: Recorder, find: Callable[[str], LiveRun]) -> None:
    @router.get("/runs/{run_id}/groups")
    async def groups(
        run_id: _RunId,
        step: Annotated[
            int | None, Query(ge=0, le=MAX_INTEGER, description="The last observation up to it. By default the latest.")
        ] = None,
    ) -> GroupsJson:
        """Describe the groups of a run at one observation."""
        found = find(run_id)
        upto = Range(0, MAX_INTEGER if step is None else step, MAX_INTEGER)
        observations = [each async for some in recorder.last_observations(run_id, upto) for each in some]
        find(run_id)
        if not observations:
            raise HTTPException(404, f"run {shortened(run_id)} has no observation up to that step")
        return await asyncio.to_thread(groups_at, observations[-1], recorder.live.get(run_id) or found)

    @router.get("/runs/{run_id}/groups/history")
    async def groups_history(
        run_id: _RunId,
        *,
        field: _GroupField = "cumulative_sparsity",
        group: Annotated[
            Sequence[_Group], Query(description="LABEL/MODULE, such as 07/self_attn.q_proj; several times for several.")
        ] = (),
        from_step: _FromStep = None,
        to_step: _ToStep = None,
        points: _GroupPoints = 200,
        by: Annotated[
            Literal["group", "layer"], Query(description="layer: of all groups with one label together.")
        ] = "group",
    ) -> GroupsHistoryJson:
        """Read one quantity of each group over the steps: what it was at the last observation of each bucket."""
        found = find(run_id)
        if field not in GROUP_FIELDS:
            raise HTTPException(422, f"field: {shortened(field)} was given; expected one of {', '.join(GROUP_FIELDS)}")
        wanted = [_group(each) for each in group]
        steps = await _steps(recorder, run_id, from_step, to_step, points)
        curves = GroupCurves(field, wanted, by_layer=by == "layer")
        if steps:
            async for some in recorder.last_observations(run_id, steps):
                await asyncio.to_thread(curves.add, some, recorder.live.get(run_id) or found)
        find(run_id)
        return GroupsHistoryJson(
            **_measured(found),
            field=field,
            bucket_steps=steps.width if steps else 1,
            step=curves.step,
            groups=await asyncio.to_thread(curves.json),
        )


def _group(text: str) -> tuple[str, str]:
    label, separator, module = text.partition("/")
    if not separator:
        raise HTTPException(422, f"group: {shortened(text)} was given; expected LABEL/MODULE, such as -/embed_tokens")
    return label, module
