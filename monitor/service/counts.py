"""Counts of an observation, added up over the groups, and the ratios that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monitor.service.arrays import Amounts, Arrays, Counts, counts_of, exact_sum
from monitor.service.transfer import Transfer, TransferSizes
from monitor.wire.monitor_pb2 import Observation, Registration


@dataclass(frozen=True, slots=True)
class ReferenceTotals:
    """|R|, |M ∩ R| and what chance would give, over all groups. None was not measured."""

    weights: int
    intersection: int | None
    expected_intersection: float | None


@dataclass(frozen=True, slots=True)
class Totals:
    """One observation over all groups. What was not measured is absent, or None.

    Attributes:
        counts: name of the count → weights.
        trained: weights per group that are trained: what ratios are of.
        changed_at: one entry per tolerance of the registration.
        references: one entry per reference mask of the registration.
        update_norm: Euclidean norm of the visible update.
        update_max_abs: its largest absolute value.
        base_norm: Euclidean norm of the trained visible base weights.
        transfer: of the latest weight sync.
    """

    counts: Mapping[str, int]
    trained: tuple[int, ...]
    changed_at: tuple[int | None, ...]
    references: tuple[ReferenceTotals, ...]
    update_norm: float | None
    update_max_abs: float | None
    base_norm: float | None
    transfer: Transfer | None

    @property
    def relative_norm(self) -> float | None:
        """‖Δ‖/‖θ₀‖ of the trained visible weights; None where one of the two is not known, or all of the base is 0."""
        if self.update_norm is None or not self.base_norm:
            return None
        return self.update_norm / self.base_norm

    @property
    def changed_ratio(self) -> float | None:
        """Share of the trained weights that the transfer changes, 0 to 1; None where that is not known."""
        if self.transfer is None or not self.trained_weights:
            return None
        return self.transfer.changed / self.trained_weights

    @property
    def trained_weights(self) -> int:
        """Weights that are trained, over all groups."""
        return sum(self.trained)


def total_weights(registration: Registration) -> int:
    """Return the number of weights of the model, frozen ones included."""
    return sum(group.weights for group in registration.groups)


class Summation:
    """Adds observations of one attempt up over their groups. What they have in common is read once."""

    def __init__(self, registration: Registration) -> None:
        self.registration = registration
        self._weights = tuple(group.weights for group in registration.groups)
        self._trained = tuple(group.weights - group.frozen_weights for group in registration.groups)
        self._weights_array, self._trained_array = counts_of(self._weights), counts_of(self._trained)
        self._has_frozen = self._trained != self._weights
        self._reference_weights = [sum(reference.weights) for reference in registration.references]
        self._sizes = TransferSizes(registration)
        self._base_norm = _norm(np.array(registration.base_squared_norm, np.float64))

    def totals(self, observation: Observation, arrays: Arrays | None = None) -> Totals:
        """Return an observation over all groups.

        Args:
            arrays: of the observation, where they have been read.
        """
        arrays = arrays or Arrays.of(observation)
        at_tolerance = [exact_sum(counts) if counts.size else None for counts in arrays.changed_at]
        return Totals(
            counts=arrays.sums(),
            trained=self.trained(observation, arrays),
            changed_at=tuple(at_tolerance or [None] * len(self.registration.tolerances)),
            references=self._references(arrays),
            update_norm=_norm(arrays.squared_norm),
            update_max_abs=float(arrays.max_abs.max()) if arrays.max_abs.size else None,
            base_norm=_norm(arrays.base_squared_norm) if arrays.base_squared_norm.size else self._base_norm,
            transfer=self._sizes.transfer_of(observation, arrays),
        )

    def trained(self, observation: Observation, arrays: Arrays | None = None) -> tuple[int, ...]:
        """Return the weights of each group that are trained: they train, or did at some time before."""
        if observation.trained:
            return tuple(observation.trained)
        # Senders that do not say what trains now show it by more changes than the registration allows for.
        if not self._has_frozen or not (counted := _that_need_training(arrays or Arrays.of(observation))):
            return self._trained
        fit = np.maximum.reduce(counted) <= self._trained_array
        if fit.all():
            return self._trained
        return tuple(np.where(fit, self._trained_array, self._weights_array).tolist())

    def _references(self, arrays: Arrays) -> tuple[ReferenceTotals, ...]:
        if not arrays.intersections:
            return tuple(ReferenceTotals(weights, None, None) for weights in self._reference_weights)
        return tuple(
            ReferenceTotals(
                weights=weights,
                intersection=exact_sum(intersection) if intersection.size else None,
                expected_intersection=sum(expected.tolist()) if expected.size else None,
            )
            for weights, intersection, expected in zip(
                self._reference_weights, arrays.intersections, arrays.expected, strict=True
            )
        )


def add_up(observation: Observation, registration: Registration) -> Totals:
    """Add one observation up over its groups. For many of one attempt, `Summation` reads the registration once."""
    return Summation(registration).totals(observation)


def base_squares(observation: Observation, registration: Registration) -> Sequence[float]:
    """Return Σ|θ₀|² of the trained visible base weights of each group at an observation; empty where not known."""
    return observation.base_squared_norm or registration.base_squared_norm


def _norm(squares: Amounts) -> float | None:
    # Added up by Python, as always: numpy adds in another order, and the last digit would be another.
    return math.sqrt(sum(squares.tolist())) if squares.size else None


def _that_need_training(arrays: Arrays) -> list[Counts]:
    needing = (arrays.counts.get(name) for name in ("changed", "step_changed", "touched", "hidden"))
    return [counts for counts in needing if counts is not None]


def sparsity(changed: int | None, weights: int) -> float | None:
    """Return 1 − changed ÷ weights, from 0 to 1; None where it was not measured or there are no weights.

    Cumulative if `changed` counts against the base, step if against the previous observation. Of the trained weights,
    unless it is named as the whole model's.

    >>> sparsity(25, 100)
    0.75
    """
    return None if changed is None or weights == 0 else 1.0 - changed / weights
