"""What a run has curves of, by name: quantities that every run has, and those that are named in the run."""

from __future__ import annotations

from typing import NamedTuple

AT_TOLERANCE = "cumulative_sparsity_at:"
OVERLAP_O1, OVERLAP_O2, OVERLAP_LIFT = "overlap_o1:", "overlap_o2:", "overlap_lift:"
LOGGED = "metric:"


class Field(NamedTuple):
    """A quantity that a run has over its steps.

    Attributes:
        unit: "ratio" from 0 to 1, "weights", "seconds", "bytes", "steps", or "" for a plain number.
        help: what it is, with what it is a share of.
    """

    unit: str
    help: str


NAMED = {
    AT_TOLERANCE: Field(
        "ratio", "Cumulative sparsity where a weight counts as changed if it differs by more than TOLERANCE."
    ),
    OVERLAP_O1: Field("ratio", "Share of the changed weights that are in the reference mask NAME, |M∩R| ÷ |M|."),
    OVERLAP_O2: Field("ratio", "Share of the reference mask NAME that changed, |M∩R| ÷ |R|."),
    OVERLAP_LIFT: Field("", "|M∩R| ÷ what chance would give, stratified by matrix, with the reference mask NAME."),
    LOGGED: Field("", "What the trainer logged as NAME."),
}
"""Beginning of a name → what the curve shows; a tolerance, or a name of the run's own, follows."""

FIELDS = {
    "cumulative_sparsity": Field("ratio", "1 − changed ÷ trained weights: the share that equals the base."),
    "step_sparsity": Field("ratio", "1 − step-changed ÷ trained weights: the share that equals the last observation."),
    "whole_model_cumulative_sparsity": Field("ratio", "1 − changed ÷ all measured weights, frozen ones included."),
    "changed": Field("weights", "Visible weights that differ from the base."),
    "newly_changed": Field("weights", "Became changed since the previous observation."),
    "reverted": Field("weights", "Ceased to be changed since the previous observation."),
    "step_changed": Field("weights", "Visible weights that differ from the previous observation."),
    "touched": Field("weights", "Differed from their predecessor at some observation so far."),
    "transient": Field("weights", "Touched − changed: moved, and came back."),
    "hidden": Field("weights", "Stored weights that differ from the base although the visible ones do not."),
    "non_finite": Field("weights", "Visible weights that are NaN or infinite."),
    "unmeasured": Field("weights", "Nothing can be said of them at this step."),
    "trained": Field("weights", "Weights that are trained: what ratios are of."),
    "update_norm": Field("", "Euclidean norm of the visible update."),
    "update_max_abs": Field("", "Largest absolute value of the visible update."),
    "relative_norm": Field("ratio", "‖Δ‖ ÷ ‖θ₀‖ of the trained visible weights."),
    "changed_ratio": Field("ratio", "Share of the trained weights that changed between weight syncs, or observations."),
    "sparse_bytes": Field("bytes", "These changes, in the way that takes least."),
    "dense_bytes": Field("bytes", "Every weight, in 16 bits."),
    "host_seconds": Field("seconds", "Time that the observation took on the training thread."),
    "device_seconds": Field("seconds", "Time that the observation read weights."),
    "monitor_bytes": Field("bytes", "Memory that the monitor holds in training."),
    "stride": Field("steps", "Optimizer steps since the previous observation."),
}
