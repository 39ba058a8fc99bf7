"""Counts of an observation, added up over the groups, and the ratios that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monitor.service.families import COUNTS
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
        return sum(self.transfer.changed) / self.trained_weights

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
        self._reference_weights = [sum(reference.weights) for reference in registration.references]
        self._sizes = TransferSizes(registration)

    def totals(self, observation: Observation) -> Totals:
        """Return an observation over all groups."""
        arrays = {name: getattr(observation, name) for name in COUNTS}
        at_tolerance = [sum(counts.weights) if counts.weights else None for counts in observation.changed_at]
        squares = base_squares(observation, self.registration)
        return Totals(
            counts={name: sum(array) for name, array in arrays.items() if array},
            trained=self.trained(observation),
            changed_at=tuple(at_tolerance or [None] * len(self.registration.tolerances)),
            references=self._references(observation),
            update_norm=math.sqrt(sum(observation.squared_norm)) if observation.squared_norm else None,
            update_max_abs=max(observation.max_abs, default=None),
            base_norm=math.sqrt(sum(squares)) if squares else None,
            transfer=self._sizes.transfer_of(observation),
        )

    def trained(self, observation: Observation) -> tuple[int, ...]:
        """Return the weights of each group that are trained: they train, or did at some time before."""
        if observation.trained:
            return tuple(observation.trained)
        # Senders that do not say what trains now show it by more changes than the registration allows for.
        if self._trained == self._weights or not (counted := _that_need_training(observation)):
            return self._trained
        most = counted[0] if len(counted) == 1 else list(map(max, *counted))
        return tuple(
            trained if count <= trained else weights
            for weights, trained, count in zip(self._weights, self._trained, most, strict=True)
        )

    def _references(self, observation: Observation) -> tuple[ReferenceTotals, ...]:
        totals = []
        for index, weights in enumerate(self._reference_weights):
            counts = observation.references[index] if observation.references else None
            intersection = counts.intersection if counts else []
            expected = counts.expected_intersection if counts else []
            totals.append(
                ReferenceTotals(
                    weights=weights,
                    intersection=sum(intersection) if intersection else None,
                    expected_intersection=sum(expected) if expected else None,
                )
            )
        return tuple(totals)


def add_up(observation: Observation, registration: Registration) -> Totals:
    """Add one observation up over its groups. For many of one attempt, `Summation` reads the registration once."""
    return Summation(registration).totals(observation)


def base_squares(observation: Observation, registration: Registration) -> Sequence[float]:
    """Return Σ|θ₀|² of the trained visible base weights of each group at an observation; empty where not known."""
    return observation.base_squared_norm or registration.base_squared_norm


def _that_need_training(observation: Observation) -> list[Sequence[int]]:
    arrays = (observation.changed, observation.step_changed, observation.touched, observation.hidden)
    return [array for array in arrays if array]


def sparsity(changed: int | None, weights: int) -> float | None:
    """Return 1 − changed ÷ weights, from 0 to 1; None where it was not measured or there are no weights.

    Cumulative if `changed` counts against the base, step if against the previous observation. Of the trained weights,
    unless it is named as the whole model's.

    >>> sparsity(25, 100)
    0.75
    """
    return None if changed is None or weights == 0 else 1.0 - changed / weights
