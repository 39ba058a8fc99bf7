"""Counts of an observation, added up over the groups, and the ratios that follow from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from monitor.service.quantities.arrays import Amounts, Arrays, Counts, counts_of, exact_sums, sums_in_order
from monitor.service.quantities.transfer import Transfer, TransferSizes
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
        trained: weights per group that are trained: what ratios are of; trained_weights: over all groups.
        changed_at: one entry per tolerance of the registration.
        references: one entry per reference mask of the registration.
        update_norm: Euclidean norm of the visible update.
        update_max_abs: its largest absolute value.
        base_norm: Euclidean norm of the trained visible base weights.
        transfer: of the latest weight sync.
    """

    counts: Mapping[str, int]
    trained: tuple[int, ...]
    trained_weights: int
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


def total_weights(registration: Registration) -> int:
    """Return the number of weights of the model, frozen ones included."""
    return sum(group.weights for group in registration.groups)


class Summation:
    """Adds observations of one attempt up over their groups. What they have in common is read once."""

    def __init__(self, registration: Registration) -> None:
        self.registration = registration
        self._weights = tuple(group.weights for group in registration.groups)
        self._trained = _Trained.of(group.weights - group.frozen_weights for group in registration.groups)
        self._weights_array, self._trained_array = counts_of(self._weights), counts_of(self._trained.groups)
        self._has_frozen = self._trained.groups != self._weights
        self._reference_weights = [sum(reference.weights) for reference in registration.references]
        self._sizes = TransferSizes(registration)
        squares = np.array([registration.base_squared_norm], np.float64)
        (self._base_norm,) = _norms(squares if squares.size else None, 1)

    def totals(self, observation: Observation) -> Totals:
        """Return an observation over all groups."""
        (totals,) = self.totals_of(Arrays.of(observation))
        return totals

    def totals_of(self, arrays: Arrays) -> list[Totals]:
        """Return each of some observations over all groups."""
        several = len(arrays.observations)
        at_tolerances = [_sums(counts, several) for counts in arrays.changed_at]
        not_measured = (None,) * len(self.registration.tolerances)
        base = arrays.base_squared_norm
        each = zip(
            arrays.sums(),
            self._trained_of(arrays),
            zip(*at_tolerances, strict=True) if at_tolerances else [not_measured] * several,
            self._references(arrays),
            _norms(arrays.squared_norm, several),
            [None] * several if arrays.max_abs is None else arrays.max_abs.max(axis=-1).tolist(),
            [self._base_norm] * several if base is None else _norms(base, several),
            self._sizes.transfers_of(arrays),
            strict=True,
        )
        return [
            Totals(counts, trained.groups, trained.weights, changed_at, references, norm, most, base_norm, transfer)
            for counts, trained, changed_at, references, norm, most, base_norm, transfer in each
        ]

    def trained(self, observation: Observation) -> tuple[int, ...]:
        """Return the weights of each group that are trained: they train, or did at some time before."""
        if observation.trained:
            return tuple(observation.trained)
        if not self._has_frozen:
            return self._trained.groups
        (trained,) = self._trained_of(Arrays.of(observation))
        return trained.groups

    def _trained_of(self, arrays: Arrays) -> list[_Trained]:
        if arrays.trained is not None:
            return [_Trained.of(groups) for groups in arrays.trained.tolist()]
        several = len(arrays.observations)
        # Senders that do not say what trains now show it by more changes than the registration allows for.
        if not self._has_frozen or not (counted := _that_need_training(arrays)):
            return [self._trained] * several
        fit = np.maximum.reduce(counted) <= self._trained_array
        if fit.all():
            return [self._trained] * several
        return [_Trained.of(groups) for groups in np.where(fit, self._trained_array, self._weights_array).tolist()]

    def _references(self, arrays: Arrays) -> list[tuple[ReferenceTotals, ...]]:
        several = len(arrays.observations)
        if not arrays.intersections:
            return [tuple(ReferenceTotals(weights, None, None) for weights in self._reference_weights)] * several
        by_reference = [
            [
                ReferenceTotals(weights, *found)
                for found in zip(_sums(intersection, several), _amounts(expected, several), strict=True)
            ]
            for weights, intersection, expected in zip(
                self._reference_weights, arrays.intersections, arrays.expected, strict=True
            )
        ]
        return list(zip(*by_reference, strict=True))


class _Trained(NamedTuple):
    """Weights that are trained: of each group, and of all."""

    groups: tuple[int, ...]
    weights: int

    @classmethod
    def of(cls, groups: Iterable[int]) -> _Trained:
        of_each = tuple(groups)
        return cls(of_each, sum(of_each))


def add_up(observation: Observation, registration: Registration) -> Totals:
    """Add one observation up over its groups. For many of one attempt, `Summation` reads the registration once."""
    return Summation(registration).totals(observation)


def base_squares(observation: Observation, registration: Registration) -> Sequence[float]:
    """Return Σ|θ₀|² of the trained visible base weights of each group at an observation; empty where not known."""
    return observation.base_squared_norm or registration.base_squared_norm


def _sums(counts: Counts | None, several: int) -> Sequence[int | None]:
    return [None] * several if counts is None else exact_sums(counts)


def _amounts(amounts: Amounts | None, several: int) -> Sequence[float | None]:
    return [None] * several if amounts is None else sums_in_order(amounts)


def _norms(squares: Amounts | None, several: int) -> list[float | None]:
    return [None if square is None else math.sqrt(square) for square in _amounts(squares, several)]


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
