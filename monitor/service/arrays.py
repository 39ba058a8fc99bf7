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


@dataclass(frozen=True, slots=True)
class Arrays:
    """Counts and amounts of one observation, one number per group in each.

    Attributes:
        counts: by name, see COUNTS; of those alone that were measured.
        changed_at: one array per tolerance.
        intersections, expected: one array per reference mask.
        synchronised: what the latest weight sync changed.
    """

    counts: dict[str, Counts]
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
        return cls(
            counts={name: counts_of(counts) for name in COUNTS if (counts := getattr(observation, name))},
            trained=counts_of(observation.trained),
            synchronised=counts_of(observation.synchronisation.changed),
            changed_at=[counts_of(counts.weights) for counts in observation.changed_at],
            intersections=[counts_of(reference.intersection) for reference in references],
            expected=[np.array(reference.expected_intersection, np.float64) for reference in references],
            squared_norm=np.array(observation.squared_norm, np.float64),
            base_squared_norm=np.array(observation.base_squared_norm, np.float64),
            max_abs=np.array(observation.max_abs, np.float32),
        )


def exact_sum(counts: Counts) -> int:
    """Return the sum, to the integer, also where it is beyond 64 bits.

    >>> exact_sum(counts_of([2**64 - 1, 2**64 - 1])) == 2 * (2**64 - 1)
    True
    """
    if not counts.size:
        return 0
    if int(counts.max()) * counts.size < _INTEGERS:
        return int(counts.sum())
    return sum(counts.tolist())
