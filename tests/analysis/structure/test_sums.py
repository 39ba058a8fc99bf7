"""Sums: counts and energies against numpy in float64; what is not finite poisons none of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monitor.analysis.structure.selection import energy_of_largest, kth_largest
from monitor.analysis.structure.sums import TOP_COORDINATES, Sums
from monitor.analysis.structure.update import Update
from monitor.observe.criterion import Criterion
from tests.analysis.structure.arrays import exact, nasty_pair, sized_difference, sparse_pair


def sums_of(base: torch.Tensor, current: torch.Tensor) -> Sums:
    return Sums.of(Update.between(base, current, torch.bfloat16, Criterion()))


@pytest.mark.parametrize("seed", range(3))
def test_energies_of_nasty_weights_are_those_of_the_finite_ones(seed: int) -> None:
    base, current = nasty_pair((123, 45), torch.bfloat16, seed)

    found = sums_of(base, current)

    before, after = exact(base), exact(current)
    ordered = np.sort(sized_difference(before, after).reshape(-1) ** 2)[::-1]
    assert found.changed == (before != after).sum()
    assert found.base_non_finite == (~np.isfinite(before)).sum() > 0
    assert found.energy == pytest.approx(ordered.sum(), rel=1e-12)
    assert found.base_energy == pytest.approx((before[np.isfinite(before)] ** 2).sum(), rel=1e-12)
    for share, energy in zip(TOP_COORDINATES, found.top_energy, strict=True):
        assert energy == pytest.approx(ordered[: math.ceil(share * ordered.size)].sum(), rel=1e-12)
    assert math.isfinite(found.relative_norm)


def test_sums_add_up() -> None:
    pairs = [sparse_pair((20, 30), density=0.3, seed=seed) for seed in range(2)]

    both = sums_of(*pairs[0]) + sums_of(*pairs[1])

    whole = sums_of(torch.cat([pairs[0][0], pairs[1][0]]), torch.cat([pairs[0][1], pairs[1][1]]))
    assert (both.weights, both.changed, both.steps.tolist()) == (whole.weights, whole.changed, whole.steps.tolist())
    assert both.relative_norm == pytest.approx(whole.relative_norm)
    assert (Sums.nothing() + both).energy == both.energy


def test_nothing_is_a_number_where_there_is_nothing_to_divide_by() -> None:
    empty, still = sums_of(torch.empty(0), torch.empty(0)), sums_of(torch.zeros(4), torch.zeros(4))

    assert math.isnan(empty.density)
    assert (still.density, still.energy) == (0, 0)
    assert math.isnan(still.relative_norm)
    assert all(math.isnan(share) for share in still.top_shares)


@pytest.mark.parametrize("k", [1, 2, 57, 300, 998, 1000])
def test_the_kth_largest_is_that_of_a_sorted_list(k: int) -> None:
    rng = np.random.default_rng(k)
    values = np.concatenate([rng.random(500), np.full(300, 0.25), np.zeros(100), rng.random(98) * 1e-42, [3e38, 1e-45]])
    values = rng.permutation(values).astype(np.float32)

    assert kth_largest(torch.from_numpy(values), k) == np.sort(values)[-k]
    assert energy_of_largest(torch.from_numpy(-values), k) == pytest.approx(
        (np.sort(values)[-k:].astype(np.float64) ** 2).sum(), rel=1e-12
    )
