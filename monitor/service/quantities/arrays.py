"""The arrays of observations, read once out of their messages: what is checked, added up and stored needs them all.

Observations that measured the same are read into one table, and looked at together: what a call costs is most of what
one of them takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from monitor.service.quantities.families import COUNTS
from monitor.wire.monitor_pb2 import Observation

Counts: TypeAlias = "npt.NDArray[np.uint64]"
Amounts: TypeAlias = "npt.NDArray[np.float64]"

_INTEGERS = 2**64
_MOST_NUMBERS = 64 * 1024
"""Of one table, unless one observation has more: it stays in a processor's cache."""


def counts_of(numbers: Sequence[int]) -> Counts:
    """Return whole numbers from 0, below 2^64, as an array."""
    return np.array(numbers, np.uint64)


@dataclass(frozen=True, slots=True)
class Arrays:
    """Counts and amounts of observations that measured the same.

    In each array there is a row for each observation, with a number for each group. What was not measured is absent, or
    None.

    Attributes:
        counts: by name, see COUNTS.
        table: the same, one behind the other: (counts, observations, groups). None where they are not equally long.
        synchronised: what the latest weight sync changed.
        changed_at: one array per tolerance.
        intersections, expected: one array per reference mask.
    """

    observations: Sequence[Observation]
    counts: dict[str, Counts]
    table: Counts | None
    trained: Counts | None
    synchronised: Counts | None
    changed_at: list[Counts | None]
    intersections: list[Counts | None]
    expected: list[Amounts | None]
    squared_norm: Amounts | None
    base_squared_norm: Amounts | None
    max_abs: Amounts | None

    @classmethod
    def of(cls, observation: Observation) -> Self:
        """Read those of one observation."""
        return cls._read([_found(observation)])

    @classmethod
    def of_each(cls, observations: Iterable[Observation]) -> Iterator[Self]:
        """Read those of all, in their order: of neighbours that measured the same together."""
        for layout, alike in groupby(map(_found, observations), lambda found: found.layout):
            found = list(alike)
            most = max(1, _MOST_NUMBERS // max(1, sum(layout.lengths)))
            for start in range(0, len(found), most):
                yield cls._read(found[start : start + most])

    @classmethod
    def _read(cls, found: Sequence[_Found]) -> Self:
        layout = found[0].layout
        counted = len(layout.names)
        table = _table(found, counted)
        counts: list[Counts] = list(table) if table is not None else [_integers(found, row) for row in range(counted)]
        others = [_integers(found, row) if layout.lengths[row] else None for row in range(counted, layout.integers)]
        amounts = [
            _numbers(found, row) if layout.lengths[row] else None for row in range(layout.integers, len(layout.lengths))
        ]
        trained, synchronised, *by_threshold = others
        squared_norm, base_squared_norm, max_abs, *expected = amounts
        return cls(
            observations=[each.observation for each in found],
            counts=dict(zip(layout.names, counts, strict=True)),
            table=table,
            trained=trained,
            synchronised=synchronised,
            changed_at=by_threshold[: layout.tolerances],
            intersections=by_threshold[layout.tolerances :],
            expected=expected,
            squared_norm=squared_norm,
            base_squared_norm=base_squared_norm,
            max_abs=max_abs,
        )

    def sums(self) -> list[dict[str, int]]:
        """Return of each observation each of the counts over all groups, by name."""
        if self.table is None or _may_be_beyond(self.table):
            of_each = zip(*(exact_sums(counts) for counts in self.counts.values()), strict=True)
            return [dict(zip(self.counts, sums, strict=True)) for sums in of_each] or [{} for _ in self.observations]
        return [dict(zip(self.counts, sums, strict=True)) for sums in self.table.sum(axis=-1).T.tolist()]


class _Layout(NamedTuple):
    """What an observation measured.

    Attributes:
        names: of its counts.
        tolerances: number of them.
        integers: of the lengths, so many are of whole numbers: these counts, and what else there may be.
        lengths: of every array, 0 of those that were not measured.
    """

    names: tuple[str, ...]
    tolerances: int
    integers: int
    lengths: tuple[int, ...]


class _Found(NamedTuple):
    """An observation, and the arrays in its message."""

    observation: Observation
    layout: _Layout
    arrays: list[Sequence[Any]]


def _found(observation: Observation) -> _Found:
    references = observation.references
    counts = {name: numbers for name in COUNTS if (numbers := getattr(observation, name))}
    integers: list[Sequence[Any]] = [
        *counts.values(),
        observation.trained,
        observation.synchronisation.changed,
        *(each.weights for each in observation.changed_at),
        *(each.intersection for each in references),
    ]
    amounts: list[Sequence[Any]] = [
        observation.squared_norm,
        observation.base_squared_norm,
        observation.max_abs,
        *(each.expected_intersection for each in references),
    ]
    arrays = integers + amounts
    layout = _Layout(tuple(counts), len(observation.changed_at), len(integers), tuple(map(len, arrays)))
    return _Found(observation, layout, arrays)


def _table(found: Sequence[_Found], rows: int) -> Counts | None:
    lengths = set(found[0].layout.lengths[:rows])
    if len(lengths) != 1:
        return None
    table = np.empty((rows, len(found), *lengths), np.uint64)
    for index, each in enumerate(found):
        for row in range(rows):
            table[row, index] = each.arrays[row]
    return table


def _integers(found: Sequence[_Found], row: int) -> Counts:
    array = np.empty((len(found), found[0].layout.lengths[row]), np.uint64)
    _fill(array, found, row)
    return array


def _numbers(found: Sequence[_Found], row: int) -> Amounts:
    # A double holds every float exactly.
    array = np.empty((len(found), found[0].layout.lengths[row]), np.float64)
    _fill(array, found, row)
    return array


def _fill(array: npt.NDArray[Any], found: Sequence[_Found], row: int) -> None:
    for index, each in enumerate(found):
        array[index] = each.arrays[row]


def exact_sums(counts: Counts) -> list[int]:
    """Return the sum of each row, to the integer, also where it is beyond 64 bits.

    >>> exact_sums(counts_of([[2**64 - 1, 2**64 - 1], [1, 2]])) == [2 * (2**64 - 1), 3]
    True
    """
    if _may_be_beyond(counts):
        return [sum(row) for row in counts.tolist()]
    sums: list[int] = counts.sum(axis=-1).tolist()
    return sums


def sums_in_order(amounts: Amounts) -> list[float]:
    """Return the sum of each row, added up one after the other: another order gives another last digit.

    >>> sums_in_order(np.array([[0.1] * 10])) == [0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1]
    True
    """
    with np.errstate(over="ignore"):
        # Beyond what a double holds it is infinite, as it is in Python.
        sums: list[float] = np.add.accumulate(amounts, axis=-1)[:, -1].tolist()
    return sums


def _may_be_beyond(counts: Counts) -> bool:
    """Whether a sum over the groups may not fit into 64 bits."""
    groups: int = counts.shape[-1]
    return int(counts.max(initial=0)) * groups >= _INTEGERS
