"""The structure of one matrix of an update, and of all of them together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
import torch

from monitor.analysis.structure.magnitudes import largest, smallest
from monitor.analysis.structure.principal import principal_weights
from monitor.analysis.structure.profiles import Lines, Profile, profile
from monitor.analysis.structure.settings import StructureSettings
from monitor.analysis.structure.spectrum import Method, Spectrum, spectrum_of
from monitor.analysis.structure.sums import Sums
from monitor.analysis.structure.update import Update
from monitor.observe.overlap import Overlap
from monitor.observe.weights.groups import GroupKey


@dataclass(frozen=True)
class MatrixStructure:
    """What was found of one matrix.

    Attributes:
        name: of the parameter, with the number of the expert where it is a stack of them.
        group: layer and module.
        shape: (rows, columns).
        smallest, largest, principal: the update mask against the α smallest, largest and principal weights of the base.
        principal_method: how the base was decomposed for the principal ones.
    """

    name: str
    group: GroupKey
    shape: tuple[int, int]
    sums: Sums
    spectrum: Spectrum
    rows: Profile
    columns: Profile
    smallest: Overlap
    largest: Overlap
    principal: Overlap
    principal_method: Method

    def along(self, lines: Lines) -> Profile:
        """Return the profile over the rows, or over the columns."""
        return self.rows if lines is Lines.ROWS else self.columns


def measure_matrix(name: str, group: GroupKey, update: Update, settings: StructureSettings) -> MatrixStructure:
    """Measure one matrix of at least one weight, where its tensors are."""
    rows, columns = update.base.shape
    by_magnitude = (name, update.base, settings.share, settings.visible_dtype)
    principal, principal_method = principal_weights(
        name, update.base, settings.share, settings.principal_rank, settings.whole_up_to
    )
    return MatrixStructure(
        name=name,
        group=group,
        shape=(rows, columns),
        sums=Sums.of(update),
        spectrum=spectrum_of(update.delta, settings.whole_up_to),
        rows=profile(update.changed, Lines.ROWS),
        columns=profile(update.changed, Lines.COLUMNS),
        smallest=overlap(update.changed, smallest(*by_magnitude)),
        largest=overlap(update.changed, largest(*by_magnitude)),
        principal=overlap(update.changed, principal),
        principal_method=principal_method,
    )


def overlap(changed: torch.Tensor, marked: torch.Tensor) -> Overlap:
    """Count an update mask against marked weights of the same matrix, with what chance gives."""
    weights, ones, marks = changed.numel(), int(changed.sum()), int(marked.sum())
    return Overlap(weights, ones, marks, int((changed & marked).sum()), ones * marks / weights)


def together(overlaps: Iterable[Overlap]) -> Overlap:
    """Add up overlaps of different matrices; chance stays stratified by matrix."""
    return reduce(
        lambda a, b: Overlap(
            a.weights + b.weights,
            a.changed + b.changed,
            a.reference + b.reference,
            a.intersection + b.intersection,
            a.expected_intersection + b.expected_intersection,
        ),
        overlaps,
        Overlap(0, 0, 0, 0, 0.0),
    )


class Skipped(NamedTuple):
    """A parameter that was left out of everything, and why, as a clause."""

    name: str
    weights: int
    why: str


@dataclass(frozen=True)
class Structure:
    """What was found of an update.

    Attributes:
        settings: how it was measured.
        matrices: in the order of the checkpoint.
        vectors: sums over what is no matrix: norms, biases.
        vector_count: number of those parameters.
        skipped: what was left out.
    """

    settings: StructureSettings
    matrices: tuple[MatrixStructure, ...]
    vectors: Sums
    vector_count: int
    skipped: tuple[Skipped, ...] = ()

    @property
    def sums(self) -> Sums:
        """Sums over all that was measured, vectors included."""
        return reduce(add, (matrix.sums for matrix in self.matrices), self.vectors)

    def mean(self, value: Callable[[MatrixStructure], float | None]) -> float:
        """Return the mean over the matrices that have the value, each counting once; NaN where none has."""
        found = self._values(value)
        return float(np.mean(found)) if found else math.nan

    def median(self, value: Callable[[MatrixStructure], float | None]) -> float:
        """Return the median over the matrices that have the value; NaN where none has."""
        found = self._values(value)
        return float(np.median(found)) if found else math.nan

    def _values(self, value: Callable[[MatrixStructure], float | None]) -> list[float]:
        found = (value(matrix) for matrix in self.matrices)
        return [each for each in found if each is not None and not math.isnan(each)]

    @property
    def smallest(self) -> Overlap:
        """All matrices together against their smallest weights."""
        return together(matrix.smallest for matrix in self.matrices)

    @property
    def largest(self) -> Overlap:
        """The same against their largest weights."""
        return together(matrix.largest for matrix in self.matrices)

    @property
    def principal(self) -> Overlap:
        """The same against their principal weights."""
        return together(matrix.principal for matrix in self.matrices)


def rank_share(matrix: MatrixStructure) -> float | None:
    """Return the rank as a share of min(rows, columns); None where it is not known."""
    spectrum = matrix.spectrum
    return None if spectrum.rank is None else spectrum.rank / spectrum.full_rank


def entropy_rank_share(matrix: MatrixStructure) -> float | None:
    """Return the entropy rank as a share of min(rows, columns); None where it is not known."""
    spectrum = matrix.spectrum
    return None if spectrum.entropy_rank is None else spectrum.entropy_rank / spectrum.full_rank
