"""The JSON of /api/v1 that /api has not."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from monitor.service.web.api import GroupJson, Number, RunDetailJson, RunJson, ThinnedJson


class _Json(BaseModel):
    model_config = ConfigDict(frozen=True)


PROBLEM = "application/problem+json"


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


def problem(
    status: int, description: str, detail: str, headers: Mapping[str, str] | None = None
) -> dict[int | str, dict[str, Any]]:
    """Return how a status is described, with the problem that goes with it.

    Args:
        description: when it is answered.
        detail: what an answer says.
        headers: names of those that go with it → what they say.
    """
    example = ProblemJson(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance="/api/v1/runs/grpo-20261127-a1b2/history",
    )
    shown = {"schema": ProblemJson.model_json_schema(), "example": example.model_dump(mode="json")}
    described: dict[str, Any] = {"description": description, "content": {PROBLEM: shown}}
    if headers:
        described["headers"] = {
            name: {"description": says, "schema": {"type": "string"}} for name, says in headers.items()
        }
    return {status: described}


PROBLEMS: dict[int | str, dict[str, Any]] = {
    **problem(
        401,
        "The service asks for a token, and none, or one that is not good, was given.",
        "no token was given, and this needs one with the scope read",
        {"WWW-Authenticate": "That a bearer token is wanted."},
    ),
    **problem(403, "The token lacks the scope read.", "the token 'trainer' has the scope write, and this needs read"),
    **problem(
        404,
        "There is no such run, or it has nothing of what was asked for.",
        "run 'grpo-20261127-a1b2' is not in this store; /api/v1/runs names those that are",
    ),
    **problem(
        422,
        "A parameter cannot be understood; the detail says which, and why.",
        "query points: Input should be greater than or equal to 1, 0 was given",
    ),
    **problem(
        429,
        "Too many tokens that are not good came from this host lately.",
        "the token that was given is not known here. There were many such calls from 10.0.0.7: a token that was made "
        "just now is known in some seconds",
        {"Retry-After": "Seconds to wait."},
    ),
    **problem(
        500,
        "The service failed where it should not; its log says where.",
        "the service failed at this; its log says where",
    ),
    **problem(503, "The store does not answer; try again.", "the store does not answer: try again"),
}
