"""The JSON that the API answers: counts, and the sparsities that follow, always named with their kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, create_model

from monitor.service.families import COUNTS


class _Json(BaseModel):
    # JSON knows neither NaN nor infinity: pydantic writes null.
    model_config = ConfigDict(frozen=True)


if TYPE_CHECKING:

    class Counts(_Json):
        """Any of the fields in COUNTS."""

        def __init__(self, **counts: int) -> None: ...

else:
    Counts = create_model(
        "Counts",
        __base__=_Json,
        __doc__="Numbers of visible weights, see the wire contract. null was not measured.",
        **dict.fromkeys(COUNTS, (int | None, None)),
    )


class Sparsities(_Json):
    """From 0 to 1. Cumulative: against the base; step: against the previous observation. null was not measured."""

    cumulative_sparsity: float | None
    step_sparsity: float | None


class ReferenceJson(_Json):
    """Overlap of the update mask with one reference mask, in weights."""

    name: str
    weights: int
    intersection: int | None
    expected_intersection: float | None


class ToleranceJson(_Json):
    """Weights that differ from the base by more than `tolerance`."""

    tolerance: float
    changed: int | None
    cumulative_sparsity: float | None


class RunJson(Sparsities):
    """One run as it stands now. Times are in seconds since 1970-01-01 UTC."""

    run_id: str
    name: str
    model: str
    base: str
    base_fingerprint: str
    base_mode: str
    labels: dict[str, str]
    metric_label_names: dict[str, str]
    library_versions: dict[str, str]
    criterion: str
    visible_dtype: str
    stored_dtypes: list[str]
    attempt: int
    resumed_from_step: int
    started_at: float
    state: str
    reason: str
    step: int
    last_observed_at: float | None
    last_heard_at: float
    observations: int
    dropped_items: int
    unsent_items: int
    weights: int


class GroupJson(Sparsities):
    """One module of one layer; `layer` is null outside the layers."""

    layer: int | None
    label: str
    module: str
    weights: int
    frozen_weights: int
    counts: Counts
    references: list[ReferenceJson]


class RunDetailJson(RunJson):
    """One run with its groups."""

    counts: Counts
    at_tolerances: list[ToleranceJson]
    references: list[ReferenceJson]
    update_norm: float | None
    update_max_abs: float | None
    training_metrics: dict[str, float]
    groups: list[GroupJson]


class ObservationJson(Sparsities):
    """One observation over all groups."""

    attempt: int
    step: int
    stride: int
    observed_at: float
    counts: Counts
    at_tolerances: list[ToleranceJson]
    references: list[ReferenceJson]
    update_norm: float | None
    update_max_abs: float | None


class RunsJson(_Json):
    """All runs, the most recently registered first."""

    runs: list[RunJson]


class HistoryJson(_Json):
    """The observations of a run in the order of their steps, without superseded ones."""

    run_id: str
    criterion: str
    visible_dtype: str
    weights: int
    observations: list[ObservationJson]
