"""The JSON that the API answers: counts, and the sparsities that follow, always named with their kind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, create_model

from monitor.service.quantities.families import COUNTS


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# JSON knows neither NaN nor infinity: null. Said here, because FastAPI before 0.129 writes the fields with Python's own
# json, which fails on them. The pages show them as they are.
Number = Annotated[float | None, PlainSerializer(_finite, return_type=float | None, when_used="json")]


class _Json(BaseModel):
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
    """From 0 to 1, of the trained weights. Cumulative: against the base; step: against the previous observation.

    null was not measured, or nothing is trained.
    """

    cumulative_sparsity: Number
    step_sparsity: Number


class ReferenceJson(_Json):
    """Overlap of the update mask with one reference mask, in weights."""

    name: str
    weights: int
    intersection: int | None
    expected_intersection: Number


class ToleranceJson(_Json):
    """Weights that differ from the base by more than `tolerance`."""

    tolerance: float
    changed: int | None
    cumulative_sparsity: Number


class TransferJson(_Json):
    """What changed from one weight sync to the next, and the bytes that it takes to transfer that.

    `between` is "syncs" of the trainer, from `previous_step` to `step`; where none is known, "observations".
    `changed_ratio` is of the trained weights, from 0 to 1. Bytes are null where weights have not 16 bits, or some are
    unmeasured.
    """

    between: str
    step: int
    previous_step: int
    changed: int
    changed_ratio: Number
    sparse_bytes: int | None
    dense_bytes: int | None


class WholeSparsities(Sparsities):
    """With the share of all weights, frozen ones included, that equal the base, from 0 to 1."""

    whole_model_cumulative_sparsity: float | None


class VerdictJson(_Json):
    """What the latest observations mean, as the training judged them: its kind, at which step, and the numbers why."""

    kind: str
    step: int
    reason: str


class ParentJson(_Json):
    """The run and the step that a run branched from."""

    run_id: str
    step: int


class ThinnedJson(_Json):
    """What was taken out between the observations of a run, to keep the store small.

    Up to `until_step`, at least one observation in `every` is left, the first and the last besides; `removed` are gone.
    What an observation says is as it was: its step counts are against the observation before it, also where that went.
    """

    every: int
    until_step: int
    removed: int


class RunJson(WholeSparsities):
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
    parent: ParentJson | None
    started_at: float
    state: str
    reason: str
    stopped_by: str
    step: int
    planned_steps: int | None
    last_observed_at: Number
    last_heard_at: float
    clock_ahead_seconds: Number = Field(
        description="By how much the clock of the run's machine is ahead of the service's, minus if it is behind: "
        "`last_heard_at` is by the service's, what the run did by its own. null: by less than a minute, or unknown."
    )
    observations: int
    dropped_items: int
    unsent_items: int
    weights: int
    trained_weights: int
    verdict: VerdictJson | None = Field(
        description="null: the observations are too few, the warm-up lasts, it cannot be known, or the sender is older."
    )
    thinned: ThinnedJson | None = Field(description="null: no observation was taken out.")
    deleted_at: Number = Field(
        description="When all that the run had reported was deleted from this store; only what came after that is in "
        "it. null: nothing was."
    )


class GroupJson(Sparsities):
    """One module of one layer; `layer` is null outside the layers, `stack` empty in a model of one stack."""

    stack: str
    layer: int | None
    label: str
    module: str
    weights: int
    frozen_weights: int
    trained_weights: int
    counts: Counts
    sync_changed: int | None
    relative_norm: Number
    references: list[ReferenceJson]


class RunDetailJson(RunJson):
    """One run with its groups. A training metric that is NaN or infinite is null."""

    counts: Counts
    at_tolerances: list[ToleranceJson]
    references: list[ReferenceJson]
    update_norm: Number
    update_max_abs: Number
    relative_norm: Number
    synchronisation: TransferJson | None
    training_metrics: dict[str, Number]
    groups: list[GroupJson]


class ObservationJson(WholeSparsities):
    """One observation over all groups."""

    attempt: int
    step: int
    stride: int
    observed_at: float
    trained_weights: int
    counts: Counts
    at_tolerances: list[ToleranceJson]
    references: list[ReferenceJson]
    update_norm: Number
    update_max_abs: Number
    relative_norm: Number
    synchronisation: TransferJson | None


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
