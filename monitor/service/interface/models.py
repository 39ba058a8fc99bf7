"""The JSON of /api/v1 that /api has not."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from monitor.service.api import GroupJson, Number, RunDetailJson, RunJson, ThinnedJson


class _Json(BaseModel):
    model_config = ConfigDict(frozen=True)


class ProblemJson(_Json):
    """What could not be answered, as in RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str


class RunsPageJson(_Json):
    """Some of the runs that match, the most recently registered first."""

    runs: list[RunJson]
    total: int = Field(description="Runs that match, on all pages.")
    next_after: str | None = Field(description="Give it as `after` for the next page; null on the last.")


class FieldJson(_Json):
    """A quantity that the run has a curve of."""

    name: str
    unit: str = Field(description='"ratio" from 0 to 1, "weights", "seconds", "bytes", "steps", or "" for a number.')
    help: str


class AttemptJson(_Json):
    """One start of a run, from `resumed_from_step` on; what earlier attempts said of later steps is superseded."""

    attempt: int
    resumed_from_step: int
    started_at: Number = Field(description="Seconds since 1970-01-01 UTC, by the run's clock.")


class RunV1Json(RunDetailJson):
    """One run with its groups, its attempts, and the names of its curves."""

    attempts: list[AttemptJson]
    fields: list[FieldJson]


class CurveJson(_Json):
    """One curve. Entry i of each list belongs to the i-th bucket of steps that has a value."""

    unit: str
    help: str
    step: list[int] = Field(description="The last step of the bucket that has a value.")
    time: list[Number] = Field(description="When that was, in seconds since 1970-01-01 UTC, by the run's clock.")
    min: list[Number]
    max: list[Number]
    last: list[Number] = Field(description="The value at `step`; null where it was NaN or infinite, or not measured.")


class HistoryV1Json(_Json):
    """Curves of a run over its steps, without what a later attempt superseded.

    Steps are cut into buckets of equal width; of each, minimum, maximum and last value are here: no peak is lost.
    """

    run_id: str
    criterion: str
    visible_dtype: str
    thinned: ThinnedJson | None
    weights: int
    from_step: int | None
    to_step: int | None
    bucket_steps: int = Field(description="Steps in a bucket; 1: every stored point is here.")
    curves: dict[str, CurveJson]


class GroupsJson(_Json):
    """The groups of a run at one observation."""

    run_id: str
    criterion: str
    visible_dtype: str
    attempt: int
    step: int
    stride: int
    observed_at: Number
    groups: list[GroupJson]


class GroupCurveJson(_Json):
    """One quantity of one group over the steps of its answer."""

    label: str
    module: str = Field(description="Empty for all modules of a layer together.")
    values: list[Number]


class GroupsHistoryJson(_Json):
    """One quantity of each group, at the last observation of each bucket of steps: nothing in between is in it."""

    run_id: str
    criterion: str
    visible_dtype: str
    thinned: ThinnedJson | None
    field: str
    bucket_steps: int
    step: list[int]
    groups: list[GroupCurveJson]


class ComparedRunJson(_Json):
    """One of the runs that are compared."""

    run_id: str
    name: str
    criterion: str
    visible_dtype: str
    thinned: ThinnedJson | None
    curve: CurveJson | None = Field(description="null: this run has no such curve.")


class ComparisonJson(_Json):
    """One quantity of several runs; `warning` says why they are not comparable, null where they are."""

    field: str
    warning: str | None
    runs: list[ComparedRunJson]


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": ProblemJson.model_json_schema()}},
    }


PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: _problem("No such run."),
    422: _problem("A parameter cannot be understood; the detail says which, and why."),
    503: _problem("The store does not answer; try again."),
}
