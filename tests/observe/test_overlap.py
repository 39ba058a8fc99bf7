from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations

import pytest

from monitor.observe.overlap import Overlap, expected_intersection, intersection_variance, jaccard, ratio, z_score


def every_intersection(weights: int, changed: int, reference: int) -> list[int]:
    """|M ∩ R| of every mask of so many weights, with R the first ones."""
    return [sum(each < reference for each in mask) for mask in combinations(range(weights), changed)]


@pytest.mark.parametrize("weights", range(7))
def test_mean_and_variance_of_chance_are_those_of_all_masks_there_are(weights: int) -> None:
    for changed in range(weights + 1):
        for reference in range(weights + 1):
            there = every_intersection(weights, changed, reference)
            mean = Fraction(sum(there), len(there))
            variance = sum((each - mean) ** 2 for each in there) / len(there)
            assert expected_intersection(weights, changed, reference) == float(mean)
            assert intersection_variance(weights, changed, reference) == float(variance)


def test_counts_beyond_what_float64_multiplies_are_exact() -> None:
    weights, changed, reference = 671_000_000_001, 94_000_000_003, 87_000_000_007
    expected = Fraction(changed * reference, weights)
    share = Fraction(reference, weights)
    variance = changed * share * (1 - share) * Fraction(weights - changed, weights - 1)
    assert expected_intersection(weights, changed, reference) == float(expected)
    assert intersection_variance(weights, changed, reference) == float(variance)


def test_a_z_score_counts_standard_deviations_and_there_is_none_without_chance() -> None:
    assert z_score(8, expected=5.0, variance=2.25) == 2.0
    assert z_score(2, expected=5.0, variance=2.25) == -2.0
    # A full mask meets all of the other, whatever the other is.
    assert math.isnan(z_score(4, expected_intersection(9, 9, 4), intersection_variance(9, 9, 4)))


def test_what_cannot_be_divided_is_no_number() -> None:
    nothing = Overlap(weights=0, changed=0, reference=0, intersection=0, expected_intersection=0.0)
    each = (nothing.o1, nothing.o2, nothing.jaccard, nothing.lift, ratio(1, 0), jaccard(0, 0, 0))
    assert all(map(math.isnan, each))
