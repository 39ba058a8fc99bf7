"""The arrays of an observation, each read once out of its message: what is checked, added up and stored needs them all.

An array that was not measured is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from monitor.service.families import COUNTS
from monitor.wire.monitor_pb2 import Observation

Counts: TypeAlias = "npt.NDArray[np.uint64]"
Amounts: TypeAlias = "npt.NDArray[np.floating[Any]]"

_INTEGERS = 2**64


def counts_of(numbers: Sequence[int]) -> Counts:
    """Return whole numbers from 0, below 2^64, as an array."""
    return np.array(numbers, np.uint64)


NO_COUNTS = counts_of([])
_NO_AMOUNTS = np.array([], np.float64)


@dataclass(frozen=True, slots=True)
class Arrays:
    """Counts and amounts of one observation, one number per group in each.

    Attributes:
        counts: by name, see COUNTS; of those alone that were measured.
        table: the same, a row each; None where they are not equally long.
        changed_at: one array per tolerance.
        intersections, expected: one array per reference mask.
        synchronised: what the latest weight sync changed.
    """

    counts: dict[str, Counts]
    table: Counts | None
    trained: Counts
    synchronised: Counts
    changed_at: list[Counts]
    intersections: list[Counts]
    expected: list[Amounts]
    squared_norm: Amounts
    base_squared_norm: Amounts
    max_abs: Amounts

    @classmethod
    def of(cls, observation: Observation) -> Self:
        """Read them."""
        references = observation.references
        measured = {name: numbers for name in COUNTS if (numbers := getattr(observation, name))}
        table = _table(list(measured.values()))
        rows = table if table is not None else map(counts_of, measured.values())
        return cls(
            counts=dict(zip(measured, rows, strict=True)),
            table=table,
            trained=_counts(observation.trained),
            synchronised=_counts(observation.synchronisation.changed),
            changed_at=[_counts(counts.weights) for counts in observation.changed_at],
            intersections=[_counts(reference.intersection) for reference in references],
            expected=[_amounts(reference.expected_intersection) for reference in references],
            squared_norm=_amounts(observation.squared_norm),
            base_squared_norm=_amounts(observation.base_squared_norm),
            max_abs=_amounts(observation.max_abs),
        )

    def sums(self) -> dict[str, int]:
        """Return each of the counts over all groups, by name."""
        # All at once, where none can be beyond 64 bits.
        if self.table is None or int(self.table.max(initial=0)) * self.table.shape[1] >= _INTEGERS:
            return {name: exact_sum(counts) for name, counts in self.counts.items()}
        return dict(zip(self.counts, self.table.sum(axis=1).tolist(), strict=True))


def exact_sum(counts: Counts) -> int:
    """Return the sum, to the integer, also where it is beyond 64 bits.

    >>> exact_sum(counts_of([2**64 - 1, 2**64 - 1])) == 2 * (2**64 - 1)
    True
    """
    if int(counts.max(initial=0)) * counts.size < _INTEGERS:
        return int(counts.sum())
    return sum(counts.tolist())


def _table(rows: Sequence[Sequence[int]]) -> Counts | None:
    if not rows or len({len(row) for row in rows}) > 1:
        return None
    table = np.empty((len(rows), len(rows[0])), np.uint64)
    for index, row in enumerate(rows):
        table[index] = row
    return table


def _counts(numbers: Sequence[int]) -> Counts:
    return counts_of(numbers) if numbers else NO_COUNTS


def _amounts(numbers: Sequence[float]) -> Amounts:
    # A double holds every float exactly.
    return np.array(numbers, np.float64) if numbers else _NO_AMOUNTS
