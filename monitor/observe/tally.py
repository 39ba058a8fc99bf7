"""Tally: turns a kernel's counts per parameter into an observation per group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from monitor.observe.kernels import contract
from monitor.observe.kernels.contract import Counts, Rules
from monitor.observe.observation import FloatArray, IntArray, Observation, ReferenceCounts
from monitor.observe.weights.groups import GroupTable
from monitor.observe.weights.roster import Roster

Scalar = TypeVar("Scalar", np.int64, np.float64)


class Tally:
    """Adds up the segments of each group.

    Args:
        roster: what is measured, in the order of the kernel's segments.
        rules: the rules that the kernel was given.
        reference_ones: reference mask → parameter, measured or frozen → its number of ones there.
        base_squares: parameter → Σ|θ₀|², at least of what is measured.
        step_masks: whether the kernel counts steps.
    """

    def __init__(
        self,
        roster: Roster,
        rules: Rules,
        reference_ones: Mapping[str, Mapping[str, int]],
        base_squares: Mapping[str, float],
        *,
        step_masks: bool,
    ) -> None:
        table, measured = roster.table, roster.measured
        self._groups = table.groups
        self._unmeasured = roster.unmeasured if roster.lost else None
        self._rules = rules
        self._step_masks = step_masks
        self._group_of_segment = np.array([table.index[weights.name] for weights in measured], dtype=np.int64)
        sizes = np.array([math.prod(weights.shape) for weights in measured], dtype=np.int64)
        self._reference_density = {
            name: np.array([ones[weights.name] for weights in measured]) / np.maximum(sizes, 1)
            for name, ones in reference_ones.items()
        }
        names = {weights.name for weights in measured}
        self._reference_in_trained = {
            name: _by_group_of(table, {each: count for each, count in ones.items() if each in names})
            for name, ones in reference_ones.items()
        }
        self.reference_weights = {name: _by_group_of(table, ones) for name, ones in reference_ones.items()}
        self.base_squared_norm = self._by_group(np.array([base_squares[weights.name] for weights in measured]))

    def changed(self, counts: Counts) -> IntArray:
        """Return the changed weights of each group."""
        return self._by_group(counts.integers.numpy()[:, contract.CHANGED])

    def observation(
        self,
        counts: Counts,
        *,
        step: int,
        stride: int,
        observed_at: float,
        host_seconds: float,
        device_seconds: float,
        overhead: float | None,
        monitor_bytes: int,
        base_mode: str,
    ) -> Observation:
        """Return the observation that the counts of one pass make."""
        integers: IntArray = counts.integers.numpy()
        floats: FloatArray = counts.floats.numpy()
        by_group = self._by_group(integers)
        first_reference = contract.first_reference(self._rules)
        return Observation(
            step=step,
            stride=stride,
            observed_at=observed_at,
            groups=self._groups,
            changed=by_group[:, contract.CHANGED],
            newly_changed=by_group[:, contract.NEWLY_CHANGED],
            reverted=by_group[:, contract.REVERTED],
            step_changed=by_group[:, contract.STEP_CHANGED] if self._step_masks else None,
            touched=by_group[:, contract.TOUCHED] if self._step_masks else None,
            hidden=by_group[:, contract.HIDDEN],
            non_finite=by_group[:, contract.NON_FINITE],
            squared_norm=self._by_group(floats[:, contract.SQUARED_NORM]),
            max_abs=self._max_by_group(floats[:, contract.MAX_ABS]),
            changed_at={
                tolerance: by_group[:, contract.FIXED_COLUMNS + i] for i, tolerance in enumerate(self._rules.tolerances)
            },
            references={
                name: ReferenceCounts(
                    weights=self.reference_weights[name],
                    trained=self._reference_in_trained[name],
                    intersection=by_group[:, first_reference + i],
                    expected_intersection=self._by_group(integers[:, contract.CHANGED] * density),
                )
                for i, (name, density) in enumerate(self._reference_density.items())
            },
            host_seconds=host_seconds,
            device_seconds=device_seconds,
            overhead=overhead,
            monitor_bytes=monitor_bytes,
            base_mode=base_mode,
            unmeasured=self._unmeasured,
            base_squared_norm=self.base_squared_norm,
        )

    def _by_group(self, per_segment: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        sums = np.zeros((len(self._groups), *per_segment.shape[1:]), dtype=per_segment.dtype)
        np.add.at(sums, self._group_of_segment, per_segment)
        return sums

    def _max_by_group(self, per_segment: FloatArray) -> FloatArray:
        maxima = np.zeros(len(self._groups))
        np.maximum.at(maxima, self._group_of_segment, per_segment)
        return maxima


def _by_group_of(table: GroupTable, counts: Mapping[str, int]) -> IntArray:
    sums = np.zeros(len(table.groups), dtype=np.int64)
    for parameter, count in counts.items():
        sums[table.index[parameter]] += count
    return sums
