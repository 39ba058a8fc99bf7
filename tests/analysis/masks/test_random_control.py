from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from monitor.analysis.masks import random_control
from monitor.analysis.masks.random_control import random_words, split
from monitor.observe.bits import count_ones, unpack


@pytest.mark.parametrize("weights", [0, 1, 31, 64, 1000])
def test_exactly_as_many_are_drawn_as_asked_for(weights: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_control, "_CHUNK", 64)
    for ones in sorted({0, weights // 3, weights}):
        words = random_words(weights, ones, (0, 0, "w"))
        assert count_ones(words) == ones
        assert int(unpack(words, weights).sum()) == ones


def test_every_choice_is_equally_likely() -> None:
    draws = 1500
    found = Counter(
        tuple(unpack(random_words(5, 2, (seed, 0, "w")), 5).nonzero().view(-1).tolist()) for seed in range(draws)
    )
    choices = list(combinations(range(5), 2))
    expected = draws / len(choices)
    chi_square = sum((found[choice] - expected) ** 2 / expected for choice in choices)
    # Of 9 degrees of freedom; more is seen once in 10⁵ times.
    assert chi_square < 40


def test_chunks_share_the_ones_as_drawing_without_replacement_does() -> None:
    sizes, ones, draws = [5, 3, 4], 6, 5000
    generator = np.random.default_rng(0)
    found = Counter(tuple(split(sizes, ones, generator)) for _ in range(draws))
    assert all(sum(counts) == ones for counts in found)
    for counts, seen in found.items():
        ways = math.prod(math.comb(size, count) for size, count in zip(sizes, counts, strict=True))
        expected = draws * ways / math.comb(sum(sizes), ones)
        assert abs(seen - expected) < 5 * math.sqrt(expected) + 5


def test_more_weights_are_split_than_numpy_draws_from() -> None:
    sizes, ones = [1 << 20] * 2000, 123_456_789
    counts = split(sizes, ones, np.random.default_rng(0))
    assert sum(counts) == ones
    assert 0 <= min(counts) <= max(counts) <= 1 << 20
    # Variance of a hypergeometric draw, of which these are many.
    share = ones / sum(sizes)
    assert np.var(counts) == pytest.approx((1 << 20) * share * (1 - share), rel=0.2)


def test_masks_and_parameters_are_drawn_apart() -> None:
    drawn = [random_words(10_000, 3000, seed) for seed in ((0, 0, "a"), (0, 1, "a"), (0, 0, "b"), (1, 0, "a"))]
    assert all(count_ones(one ^ other) > 3000 for one, other in combinations(drawn, 2))
    assert count_ones(drawn[0] ^ random_words(10_000, 3000, (0, 0, "a"))) == 0
