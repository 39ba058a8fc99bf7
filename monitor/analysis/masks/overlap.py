"""The overlap of two masks beside what chance gives: over all weights alike, and spread evenly within each matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from monitor.analysis.masks.counts import MaskCounts
from monitor.observe.observation import IntArray
from monitor.observe.overlap import (
    Overlap,
    expected_intersection,
    intersection_variance,
    jaccard,
    ratio,
    z_score,
)


@dataclass(frozen=True)
class Chance:
    """What chance gives for the intersection of two masks, and where the observed one stands.

    Attributes:
        observed: what was counted.
        expected: mean of |A ∩ B|.
        variance: of |A ∩ B|.

    Ratios are NaN where their denominator is 0.
    """

    observed: Overlap
    expected: float
    variance: float

    @property
    def o1(self) -> float:
        """Share of A that lies in B by chance, 0 to 1."""
        return ratio(self.expected, self.observed.changed)

    @property
    def o2(self) -> float:
        """Share of B that lies in A by chance, 0 to 1."""
        return ratio(self.expected, self.observed.reference)

    @property
    def jaccard(self) -> float:
        """Jaccard of the expected intersection: pq/(p + q − pq) of the densities p and q (arXiv 2511.08567)."""
        return jaccard(self.expected, self.observed.changed, self.observed.reference)

    @property
    def lift(self) -> float:
        """Observed ÷ expected intersection; 1 is chance."""
        return ratio(self.observed.intersection, self.expected)

    @property
    def z_score(self) -> float:
        """Standard deviations that the observed intersection lies above the expected one."""
        return z_score(self.observed.intersection, self.expected, self.variance)


@dataclass(frozen=True)
class MaskOverlap:
    """How far mask A and mask B coincide in some parameters.

    Attributes:
        counts: |A| is `changed`, |B| is `reference`; with o₁, o₂, Jaccard.
        whole: chance when ones lie anywhere in these parameters: |A||B|/n.
        by_matrix: chance when they lie anywhere within their matrix: Σ|Aᵢ||Bᵢ|/nᵢ. A mask that prefers some matrices
            is compared with others that prefer the same ones.
    """

    counts: Overlap
    whole: Chance
    by_matrix: Chance


def overlap_of(weights: Sequence[int], a: IntArray, b: IntArray, common: IntArray) -> MaskOverlap:
    """Return the overlap over some parameters.

    Args:
        weights: number of weights of each parameter.
        a, b, common: the ones in A, in B, in both, of the same parameters.
    """
    parts = list(zip(map(int, weights), a.tolist(), b.tolist(), strict=True))
    total = (sum(weights), int(a.sum()), int(b.sum()))
    expected = math.fsum(expected_intersection(*part) for part in parts)
    counts = Overlap(*total, intersection=int(common.sum()), expected_intersection=expected)
    variance = math.fsum(intersection_variance(*part) for part in parts)
    whole = Chance(counts, expected_intersection(*total), intersection_variance(*total))
    return MaskOverlap(counts, whole, Chance(counts, expected, variance))


def pair_overlap(counts: MaskCounts, a: int, b: int, parameters: Sequence[int]) -> MaskOverlap:
    """Return the overlap of two of the masks that were counted, over the parameters at some positions."""
    return _overlap(counts, a, b, parameters, counts.common)


def control_overlap(counts: MaskCounts, a: int, b: int, parameters: Sequence[int]) -> MaskOverlap | None:
    """Return the overlap of a mask with a random one as dense as another in each matrix; None without a control."""
    return None if counts.control is None else _overlap(counts, a, b, parameters, counts.control)


def _overlap(counts: MaskCounts, a: int, b: int, parameters: Sequence[int], common: IntArray) -> MaskOverlap:
    chosen = list(parameters)
    weights = list(counts.weights.values())
    ones = counts.ones[chosen]
    return overlap_of([weights[each] for each in chosen], ones[:, a], ones[:, b], common[chosen, a, b])
