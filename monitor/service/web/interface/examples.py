"""Answers of /api/v1 as its description shows them: one run of a model with one matrix, and a run to compare it with.

They are made of the models that real answers are made of.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter

from monitor.service.quantities.fields import FIELDS
from monitor.service.web.api import (
    Counts,
    GroupJson,
    ReferenceJson,
    RunDetailJson,
    RunJson,
    ToleranceJson,
    TransferJson,
    VerdictJson,
)
from monitor.service.web.interface import tables
from monitor.service.web.interface.models import (
    AttemptJson,
    ComparedRunJson,
    ComparisonJson,
    CurveJson,
    FieldJson,
    GroupCurveJson,
    GroupsHistoryJson,
    GroupsJson,
    HistoryV1Json,
    RunsPageJson,
    RunV1Json,
)

RUN_ID = "grpo-20261127-a1b2"
_WEIGHTS = 2_097_152
_STEPS, _TIMES = [198, 200], [1795600000.0, 1795600040.0]
_CHANGED = [104_000, 104_858]
_CUMULATIVE = [1 - changed / _WEIGHTS for changed in _CHANGED]
_STEP_CHANGED, _SYNC_CHANGED = 6_291, 12_583
_NEWLY = 1_258
_MEASURED: dict[str, Any] = {"run_id": RUN_ID, "criterion": "bits", "visible_dtype": "bfloat16", "thinned": None}
_SPARSITIES: dict[str, Any] = {
    "cumulative_sparsity": _CUMULATIVE[-1],
    "step_sparsity": 1 - _STEP_CHANGED / _WEIGHTS,
}
_COUNTS = Counts(
    changed=_CHANGED[-1],
    newly_changed=_NEWLY,
    reverted=_NEWLY - (_CHANGED[-1] - _CHANGED[0]),
    step_changed=_STEP_CHANGED,
    touched=125_829,
    hidden=1_048_576,
    non_finite=0,
    unmeasured=0,
)
_REFERENCES = [
    ReferenceJson(name="other seed", weights=104_858, intersection=51_380, expected_intersection=_CHANGED[-1] / 20)
]
_VERDICT = VerdictJson(
    kind="sparse",
    step=200,
    reason="95.0 % of 2,097,152 trained weights equal the base (cumulative sparsity, bits in bfloat16)",
)
_RUN = RunJson(
    **_MEASURED,
    **_SPARSITIES,
    whole_model_cumulative_sparsity=_CUMULATIVE[-1],
    name="GRPO on GSM8K",
    model="Qwen/Qwen3-0.6B",
    base="Qwen/Qwen3-0.6B",
    base_fingerprint="0123456789abcdef0123456789abcdef",
    base_mode="device",
    labels={"algorithm": "GRPO"},
    metric_label_names={"algorithm": "label_algorithm"},
    library_versions={"torch": "2.8.0", "trl": "0.24.0"},
    stored_dtypes=["float32"],
    attempt=1,
    resumed_from_step=0,
    parent=None,
    started_at=1795596000.0,
    state="running",
    reason="",
    stopped_by="",
    step=200,
    planned_steps=500,
    last_observed_at=_TIMES[-1],
    last_heard_at=1795600050.0,
    clock_ahead_seconds=None,
    observations=100,
    dropped_items=0,
    unsent_items=0,
    weights=_WEIGHTS,
    trained_weights=_WEIGHTS,
    verdict=_VERDICT,
    deleted_at=None,
)
_GROUP = GroupJson(
    **_SPARSITIES,
    stack="",
    layer=7,
    label="07",
    module="self_attn.q_proj",
    weights=_WEIGHTS,
    frozen_weights=0,
    trained_weights=_WEIGHTS,
    counts=_COUNTS,
    sync_changed=_SYNC_CHANGED,
    relative_norm=0.0012,
    references=_REFERENCES,
)
_DETAIL = RunDetailJson(
    **_RUN.model_dump(),
    counts=_COUNTS,
    at_tolerances=[ToleranceJson(tolerance=1e-5, changed=83_886, cumulative_sparsity=1 - 83_886 / _WEIGHTS)],
    references=_REFERENCES,
    update_norm=0.031,
    update_max_abs=0.0005,
    relative_norm=0.0012,
    synchronisation=TransferJson(
        between="syncs",
        step=200,
        previous_step=192,
        changed=_SYNC_CHANGED,
        changed_ratio=_SYNC_CHANGED / _WEIGHTS,
        sparse_bytes=6 * _SYNC_CHANGED,
        dense_bytes=2 * _WEIGHTS,
    ),
    training_metrics={"loss": 0.021, "reward": 0.74},
    groups=[_GROUP],
)


def _curve(name: str, values: list[float | None]) -> CurveJson:
    field = FIELDS[name]
    return CurveJson(unit=field.unit, help=field.help, step=_STEPS, time=_TIMES, min=values, max=values, last=values)


_SPARSITY = _curve("cumulative_sparsity", [*_CUMULATIVE])


def _as_csv(name: str, values: list[float]) -> str:
    points = zip(_STEPS, _TIMES, values, strict=True)
    rows = [f"{name},{step},{time},{value},{value},{value},1\n" for step, time, value in points]
    return "".join([",".join(tables.COLUMNS) + "\n", *rows])


CSV = _as_csv("cumulative_sparsity", _CUMULATIVE)
_ANSWERS: dict[str, BaseModel | list[ReferenceJson]] = {
    "/runs": RunsPageJson(runs=[_RUN], total=1, next_after=None),
    "/runs/{run_id}": RunV1Json(
        **_DETAIL.model_dump(),
        attempts=[AttemptJson(attempt=1, resumed_from_step=0, started_at=1795596000.0)],
        fields=[FieldJson(name=name, **FIELDS[name]._asdict()) for name in ("cumulative_sparsity", "changed")],
    ),
    "/runs/{run_id}/verdict": _VERDICT,
    "/runs/{run_id}/references": _REFERENCES,
    "/runs/{run_id}/history": HistoryV1Json(
        **_MEASURED,
        weights=_WEIGHTS,
        from_step=198,
        to_step=200,
        bucket_steps=1,
        curves={"cumulative_sparsity": _SPARSITY},
    ),
    "/compare": ComparisonJson(
        field="cumulative_sparsity",
        warning=None,
        runs=[
            ComparedRunJson(**_MEASURED, name=_RUN.name, curve=_SPARSITY),
            ComparedRunJson(**{**_MEASURED, "run_id": "sft-20261127-c3d4"}, name="SFT on GSM8K", curve=None),
        ],
    ),
    "/runs/{run_id}/groups": GroupsJson(
        run_id=RUN_ID,
        criterion="bits",
        visible_dtype="bfloat16",
        attempt=1,
        step=200,
        stride=2,
        observed_at=_TIMES[-1],
        groups=[_GROUP],
    ),
    "/runs/{run_id}/groups/history": GroupsHistoryJson(
        **_MEASURED,
        field="cumulative_sparsity",
        bucket_steps=1,
        step=_STEPS,
        groups=[GroupCurveJson(label="07", module="self_attn.q_proj", values=[*_CUMULATIVE])],
    ),
}


def add_examples(description: dict[str, Any], prefix: str) -> None:
    """Put an example of each answer into an OpenAPI description.

    FastAPI is not given them with the routes: it takes what is null out of them, and what is left is no answer.
    """
    for path, answer in _ANSWERS.items():
        content = description["paths"][prefix + path]["get"]["responses"]["200"]["content"]["application/json"]
        content["example"] = TypeAdapter(type(answer)).dump_python(answer, mode="json")
