"""How far two masks coincide, and what chance gives: each formula once, of whole numbers of weights.

Chance is the hypergeometric model: of n weights, |M| are drawn without replacement, and |R| of the n are in the other
mask. Python divides whole numbers exactly; counts of large models are beyond what float64 multiplies exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


def ratio(numerator: float, denominator: float) -> float:
    """Return numerator ÷ denominator, NaN where that is 0."""
    return numerator / denominator if denominator else math.nan


def jaccard(intersection: float, changed: int, reference: int) -> float:
    """Return |M ∩ R| ÷ |M ∪ R|, 0 to 1; NaN where both are empty."""
    return ratio(intersection, changed + reference - intersection)


def expected_intersection(weights: int, changed: int, reference: int) -> float:
    """Return the mean of |M ∩ R| by chance, |M||R|/n; 0 where there are no weights.

    >>> expected_intersection(weights=10, changed=5, reference=4)
    2.0
    """
    return changed * reference / weights if weights else 0.0


def intersection_variance(weights: int, changed: int, reference: int) -> float:
    """Return the variance of |M ∩ R| by chance, |M| · |R|/n · (1 − |R|/n) · (n − |M|)/(n − 1).

    It is 0 where chance has no choice: with an empty or a full mask, and with one weight. Variances of matrices that
    are drawn from one by one add up.

    >>> intersection_variance(weights=10, changed=5, reference=4)
    0.6666666666666666
    """
    if weights < 2:
        return 0.0
    return changed * (weights - changed) * reference * (weights - reference) / (weights * weights * (weights - 1))


def z_score(intersection: int, expected: float, variance: float) -> float:
    """Return how many standard deviations |M ∩ R| lies above what chance gives; NaN where chance has no choice.

    >>> z_score(4, expected=2.0, variance=0.25)
    4.0
    """
    return ratio(intersection - expected, math.sqrt(variance))


@dataclass(frozen=True)
class Overlap:
    """How far an update mask M and a reference mask R coincide, with what chance would give.

    Attributes:
        weights: n, the trained weights: a mask covers no others.
        changed: |M|.
        reference: |R|.
        intersection: |M ∩ R|.
        expected_intersection: what chance gives when ones are spread evenly within each matrix: Σ|Mᵢ||Rᵢ|/nᵢ.
        reference_in_trained: of |R|, what lies in trained weights, where M can meet it; None where all does.

    Ratios are NaN where their denominator is 0. Source: arXiv 2505.11711 (o₁, o₂), arXiv 2511.08567 (Jaccard).
    """

    weights: int
    changed: int
    reference: int
    intersection: int
    expected_intersection: float
    reference_in_trained: int | None = None

    @property
    def o1(self) -> float:
        """Share of the changed weights that lie in the reference, 0 to 1."""
        return ratio(self.intersection, self.changed)

    @property
    def o2(self) -> float:
        """Share of the reference that changed, 0 to 1."""
        return ratio(self.intersection, self.reference)

    @property
    def expected_o1(self) -> float:
        """o₁ that chance gives over all trained weights, |R|/n of the part of R that lies in them."""
        return ratio(self._reachable, self.weights)

    @property
    def expected_o2(self) -> float:
        """o₂ that chance gives over all trained weights, |M|/n, or less where a part of R is frozen."""
        return ratio(self.changed, self.weights) * ratio(self._reachable, self.reference)

    @property
    def _reachable(self) -> int:
        return self.reference if self.reference_in_trained is None else self.reference_in_trained

    @property
    def jaccard(self) -> float:
        """|M ∩ R| ÷ |M ∪ R|, 0 to 1."""
        return jaccard(self.intersection, self.changed, self.reference)

    @property
    def lift(self) -> float:
        """Intersection ÷ what chance gives stratified by matrix; 1 is chance. Of a structural mask, the enrichment."""
        return ratio(self.intersection, self.expected_intersection)
