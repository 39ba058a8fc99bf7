"""Observation: the counts of every group at one optimizer step, and the ratios that people read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from monitor.observe.overlap import Overlap, ratio
from monitor.observe.weights.groups import Group

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceCounts:
    """Counts against one reference mask, one entry per group.

    Attributes:
        weights: |R|.
        trained: of these, what lies in trained weights.
        intersection: |M ∩ R|.
        expected_intersection: Σ|Mᵢ||Rᵢ|/nᵢ over the matrices of the group.
    """

    weights: IntArray
    trained: IntArray
    intersection: IntArray
    expected_intersection: FloatArray


@dataclass(frozen=True)
class Synchronisation:
    """What changed from one weight sync to the next: between the end points, whatever happened in between.

    Attributes:
        step: step of the weights that were handed over.
        previous_step: step of those that were handed over before them.
        changed: visible weights that differ between the two, one entry per group.
    """

    step: int
    previous_step: int
    changed: IntArray


@dataclass(frozen=True)
class Observation:
    """The counts of every group at one optimizer step. Arrays have one entry per group, in the order of `groups`.

    Ratios are of the *trained* weights: those that require gradients, or did at some time in this run, and with
    adapters the weights of the matrices that these change. Frozen weights cannot move, so they would make anything
    look sparse; published figures are of runs that train every weight.

    Attributes:
        step: optimizer step.
        stride: steps since the previous observation.
        observed_at: seconds since 1970-01-01 UTC.
        changed: visible weights that differ from the base, by the criterion.
        newly_changed, reverted: entered and left `changed` since the previous observation.
        step_changed: visible weights that differ from the previous observation; None when step masks are off.
        touched: visible weights that differed from their predecessor at some observation; None when step masks are off.
        hidden: stored weights that differ from the base although the visible ones do not.
        non_finite: visible weights that are NaN or infinite.
        changed_at: tolerance → visible weights that differ from the base by more.
        squared_norm: Σ|Δ|² of the visible weights, over finite Δ.
        max_abs: max|Δ| of the visible weights, over finite Δ.
        references: name of the reference mask → counts.
        host_seconds: time that it took on the calling thread, with what was done for it since the previous one.
        device_seconds: time that the weights were read for on their device; on a CPU this is a part of host_seconds.
        overhead: share of the time since the previous observation that the previous one cost, summed over processes;
            None at the first. What runs beside the training on a device counts in full.
        monitor_bytes: memory that base, masks, previous weights and reference masks take; a base that is there anyway
            takes none.
        base_mode: how the base is kept: "device", "host", "shared", or "low_byte", which is exact only for weights that
            moved by fewer than 128 representable steps.
        unmeasured: weights that nothing can be said of any more, or not at this step, because they were replaced, given
            up, or measured against a base that has moved. They are in no count of changes and in no sparsity.
            None where there are no such weights.
        base_squared_norm: Σ|θ₀|² of the trained visible weights of the base, over finite θ₀; None where nobody counted.
        synchronisation: the latest weight sync up to this step; None where the trainer has none, or none can be told.
    """

    step: int
    stride: int
    observed_at: float
    groups: tuple[Group, ...]
    changed: IntArray
    newly_changed: IntArray
    reverted: IntArray
    step_changed: IntArray | None
    touched: IntArray | None
    hidden: IntArray
    non_finite: IntArray
    squared_norm: FloatArray
    max_abs: FloatArray
    changed_at: dict[float, IntArray] = field(default_factory=dict)
    references: dict[str, ReferenceCounts] = field(default_factory=dict)
    host_seconds: float = 0.0
    device_seconds: float = 0.0
    overhead: float | None = None
    monitor_bytes: int = 0
    base_mode: str = "device"
    unmeasured: IntArray | None = None
    base_squared_norm: FloatArray | None = None
    synchronisation: Synchronisation | None = None

    @property
    def weights(self) -> int:
        """Number of weights, frozen ones included."""
        return sum(group.weights for group in self.groups)

    @property
    def trained_weights(self) -> int:
        """Number of weights that train or did at some time in this run: what the ratios are of."""
        return sum(group.trained_weights for group in self.groups)

    @property
    def cumulative_sparsity(self) -> float:
        """Share of the trained visible weights that equal the base, 0 to 1; NaN where none are trained."""
        return 1.0 - ratio(int(self.changed.sum()), self.trained_weights)

    @property
    def whole_model_cumulative_sparsity(self) -> float:
        """Share of all visible weights, frozen ones included, that equal the base, 0 to 1.

        Unmeasured ones are left out; NaN where there are no others.
        """
        unmeasured = 0 if self.unmeasured is None else int(self.unmeasured.sum())
        return 1.0 - ratio(int(self.changed.sum()), self.weights - unmeasured)

    @property
    def step_sparsity(self) -> float | None:
        """Share of the trained visible weights that equal the previous observation, 0 to 1.

        None when step masks are off, NaN where no weights are trained.
        """
        return None if self.step_changed is None else 1.0 - ratio(int(self.step_changed.sum()), self.trained_weights)

    @property
    def update_norm(self) -> float:
        """Euclidean norm of the visible update."""
        return float(np.sqrt(self.squared_norm.sum()))

    @property
    def changed_ratio(self) -> float | None:
        """Share of the trained visible weights that the latest weight sync changed, 0 to 1.

        None where there is none, NaN where no weights are trained.
        """
        if self.synchronisation is None:
            return None
        return ratio(int(self.synchronisation.changed.sum()), self.trained_weights)

    @property
    def relative_norm(self) -> float | None:
        """‖Δ‖/‖θ₀‖ over the trained visible weights; NaN where these are all 0, None where the base's is not known.

        Source: arXiv 2606.13657.
        """
        if self.base_squared_norm is None:
            return None
        return float(np.sqrt(ratio(float(self.squared_norm.sum()), float(self.base_squared_norm.sum()))))

    def overlap(self, reference: str) -> Overlap:
        """Return the overlap of the update mask with a reference mask, over all groups.

        Raises:
            KeyError: no reference mask of that name was given.
        """
        if reference not in self.references:
            known = ", ".join(map(repr, self.references)) or "none"
            raise KeyError(f"no reference mask {reference!r} was given; of this observation there are: {known}.")
        counts = self.references[reference]
        return Overlap(
            weights=self.trained_weights,
            changed=int(self.changed.sum()),
            reference=int(counts.weights.sum()),
            intersection=int(counts.intersection.sum()),
            expected_intersection=float(counts.expected_intersection.sum()),
            reference_in_trained=int(counts.trained.sum()),
        )
