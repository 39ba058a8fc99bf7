"""Spectra against numpy's singular values in float64, and ranks against torch's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monitor.analysis.structure.spectrum import TOP, Method, Spectrum, spectrum_of
from tests.analysis.structure.arrays import exact, sparse_pair


def by_numpy(delta: torch.Tensor) -> tuple[float, float, float]:
    """Stable rank, entropy rank, and share of the 16 largest."""
    sigma = np.linalg.svd(exact(delta), compute_uv=False)
    shares = sigma / sigma.sum()
    shares = shares[shares > 0]
    energy = sigma**2
    return energy.sum() / energy[0], math.exp(-(shares * np.log(shares)).sum()), energy[:TOP].sum() / energy.sum()


def made(kind: str, shape: tuple[int, int]) -> torch.Tensor:
    if kind == "low rank":
        generator = torch.Generator().manual_seed(1)
        return torch.randn(shape[0], 5, generator=generator) @ torch.randn(5, shape[1], generator=generator)
    if kind == "vanishing":
        # Down to far below what float32 tells from nothing: where the tolerance is decides.
        left, right = (np.linalg.qr(np.random.default_rng(size).standard_normal((size, size)))[0] for size in shape)
        sigma = 10.0 ** -np.linspace(0, 9, min(shape))
        return torch.from_numpy((left[:, : sigma.size] * sigma) @ right[: sigma.size]).float()
    base, current = sparse_pair(shape, density=0.2 if min(shape) > 5 else 1.0)
    delta = current.float() - base.float()
    if kind == "decaying":
        return delta / (1 + torch.arange(shape[0]).float()).unsqueeze(1)
    return delta


KINDS = ("sparse", "decaying", "low rank")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(120, 75), (75, 120), (7, 200), (1, 5), (1, 1)])
def test_the_whole_spectrum_is_that_of_numpy(kind: str, shape: tuple[int, int]) -> None:
    delta = made(kind, shape)

    found = spectrum_of(delta)

    expected = by_numpy(delta)
    assert found.method is Method.WHOLE
    assert found.stable_rank == pytest.approx(expected[0], rel=1e-5)
    assert found.entropy_rank == pytest.approx(expected[1], rel=1e-3)
    assert found.top_share == pytest.approx(expected[2], rel=1e-5)


@pytest.mark.parametrize("kind", [*KINDS, "vanishing"])
@pytest.mark.parametrize("shape", [(120, 75), (75, 400), (1, 5)])
def test_the_rank_is_the_integer_of_the_published_script(kind: str, shape: tuple[int, int]) -> None:
    delta = made(kind, shape)

    assert spectrum_of(delta).rank == int(torch.linalg.matrix_rank(delta))
    assert spectrum_of(delta).full_rank == min(shape)


@pytest.mark.parametrize("kind", ["sparse", "decaying"])
@pytest.mark.parametrize("shape", [(400, 700), (700, 400)])
def test_the_randomised_spectrum_is_a_lower_bound_within_a_thousandth(kind: str, shape: tuple[int, int]) -> None:
    delta = made(kind, shape)

    found = spectrum_of(delta, whole_up_to=100)

    stable, _, share = by_numpy(delta)
    assert found.method is Method.RANDOMISED
    assert share * (1 - 1e-3) < found.top_share <= share * (1 + 1e-6)
    assert stable * (1 - 1e-6) <= found.stable_rank < stable * (1 + 1e-3)
    assert (found.rank, found.entropy_rank) == (None, None)


def test_a_randomised_spectrum_is_the_same_each_time_and_draws_no_numbers_of_others() -> None:
    delta = made("sparse", (400, 300))
    state = torch.get_rng_state()

    first, second = (spectrum_of(delta, whole_up_to=100) for _ in range(2))

    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


def test_a_randomised_spectrum_of_a_low_rank_is_whole() -> None:
    delta = made("low rank", (400, 300))

    assert spectrum_of(delta, whole_up_to=100).top_share == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("whole_up_to", [4096, 1])
@pytest.mark.parametrize("power", [-149, -126, 100])
def test_size_makes_no_difference(power: int, whole_up_to: int) -> None:
    # Differences of subnormals, whose squares vanish in float32, or of the largest numbers, whose squares overflow.
    pattern = torch.from_numpy(np.random.default_rng(0).integers(-3, 4, (300, 310))).float()
    delta = torch.ldexp(pattern.double(), torch.tensor(power)).float()

    assert spectrum_of(delta, whole_up_to) == spectrum_of(pattern, whole_up_to)


@pytest.mark.parametrize("whole_up_to", [4096, 1])
def test_nothing_has_rank_zero_and_no_shares(whole_up_to: int) -> None:
    found = spectrum_of(torch.zeros(300, 320), whole_up_to)

    assert found.rank == (0 if whole_up_to > 1 else None)
    assert math.isnan(found.stable_rank)
    assert math.isnan(found.top_share)
    assert isinstance(found, Spectrum)
