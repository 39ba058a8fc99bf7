"""Where an update landed: smallest, largest and principal weights against numpy, and what chance gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monitor.analysis.structure.magnitudes import largest, smallest
from monitor.analysis.structure.measured import overlap, together
from monitor.analysis.structure.principal import principal_rank, principal_weights
from monitor.analysis.structure.spectrum import Method
from tests.analysis.structure.arrays import exact, nasty_pair, sparse_pair


@pytest.mark.parametrize("share", [0.1, 0.07, 0.5])
def test_the_smallest_and_the_largest_are_those_of_a_sorted_list(share: float) -> None:
    base, _ = nasty_pair((97, 41), torch.bfloat16)

    low, high = (of("w", base, share, torch.bfloat16).numpy() for of in (smallest, largest))

    # NaN is the largest.
    magnitudes = np.nan_to_num(np.abs(exact(base)), nan=np.inf, posinf=np.inf)
    ordered = np.sort(magnitudes.reshape(-1))
    assert low.sum() == math.floor(share * base.numel())
    assert high.sum() == math.ceil(share * base.numel())
    assert np.array_equal(np.sort(magnitudes[low]), ordered[: low.sum()])
    assert np.array_equal(np.sort(magnitudes[high]), ordered[-high.sum() :])
    assert not (low & high).any() or share == 0.5


def by_numpy(base: torch.Tensor, share: float, rank: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    u, s, v = np.linalg.svd(exact(base), full_matrices=False)
    magnitudes = np.abs((u[:, :rank] * s[:rank]) @ v[:rank])
    count = math.ceil(share * base.numel())
    return magnitudes >= np.sort(magnitudes.reshape(-1))[-count]


@pytest.mark.parametrize("shape", [(60, 110), (110, 60), (64, 64)])
def test_principal_weights_are_the_largest_of_numpys_reconstruction(shape: tuple[int, int]) -> None:
    base, _ = sparse_pair(shape, density=0.0)

    mask, method = principal_weights("w", base, 0.1, 0.2)

    expected = by_numpy(base, 0.1, int(0.2 * min(shape)))
    assert method is Method.WHOLE
    assert mask.sum() == expected.sum()
    # At the limit, float32 may take another one.
    assert (mask.numpy() != expected).sum() <= 4


def test_randomised_principal_weights_are_nearly_the_same_where_the_spectrum_decays() -> None:
    generator = torch.Generator().manual_seed(2)
    base = torch.randn(300, 400, generator=generator)
    u, _, v = torch.linalg.svd(base, full_matrices=False)
    base = (u * torch.arange(1, 301).float() ** -0.5) @ v
    state = torch.get_rng_state()

    found, method = principal_weights("w", base, 0.1, 0.1, whole_up_to=100)

    expected = by_numpy(base, 0.1, 30)
    assert method is Method.RANDOMISED
    assert (found.numpy() & expected).sum() > 0.97 * expected.sum()
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_that_are_not_finite_spoil_no_principal_ones() -> None:
    base, _ = sparse_pair((40, 50), density=0.0)
    spoilt = base.clone()
    spoilt[0, 0], spoilt[1, 1] = math.nan, math.inf
    base[0, 0] = base[1, 1] = 0

    assert torch.equal(principal_weights("w", spoilt, 0.1, 0.1)[0], principal_weights("w", base, 0.1, 0.1)[0])


def test_the_rank_is_at_least_one() -> None:
    assert principal_rank(0.1, (3, 50)) == 1


def test_overlap_of_several_matrices_is_against_chance_in_each() -> None:
    rng = np.random.default_rng(0)
    masks = [
        (rng.random(shape) < density, rng.random(shape) < 0.3) for shape, density in (((9, 8), 0.2), ((5, 7), 0.9))
    ]

    whole = together(overlap(torch.from_numpy(m), torch.from_numpy(r)) for m, r in masks)

    within = sum((m & r).sum() for m, r in masks)
    expected = sum(m.sum() * r.sum() / m.size for m, r in masks)
    assert (whole.intersection, whole.changed) == (within, sum(m.sum() for m, _ in masks))
    assert whole.lift == pytest.approx(within / expected)
    assert whole.o1 == pytest.approx(within / sum(m.sum() for m, _ in masks))


def test_updates_of_the_smallest_weights_are_seen_as_such() -> None:
    base, _ = sparse_pair((50, 60), density=0.0)
    changed = smallest("w", base, 0.05, torch.bfloat16)

    assert overlap(changed, smallest("w", base, 0.1, torch.bfloat16)).lift == pytest.approx(10)
    assert overlap(changed, largest("w", base, 0.1, torch.bfloat16)).lift == 0
