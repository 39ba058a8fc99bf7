"""Σ|Δ|² of the kernel for GPUs, which adds it up in integers: right to 2⁻³⁰ whatever the weights' magnitudes."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from monitor.observe.criterion import Criterion
from monitor.observe.kernels import reference
from monitor.observe.kernels.contract import MAX_ABS, SQUARED_NORM, Rules, Segment

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("with a GPU, test_gpu.py runs the compiled kernel", allow_module_level=True)

from monitor.observe.kernels.gpu import TritonKernel

# A full block, so that nothing is left for the lanes that add up in float64.
COUNT = 2048
SMALLEST, LARGEST = 2.0**-149, float(np.finfo(np.float32).max)


def check(differences: torch.Tensor, dtype: torch.dtype = torch.float32) -> None:
    """Compare the sum with that of the specification, for weights that were 0."""
    current = differences.to(torch.float32).to(dtype)
    segments = [
        Segment(current, torch.zeros(COUNT, dtype=dtype), torch.zeros(COUNT // 32, dtype=torch.int32)) for _ in range(2)
    ]
    rules = Rules(dtype, Criterion(None))
    with np.errstate(all="ignore"):
        found = TritonKernel(segments[:1], rules, words=64, blocks=1)().floats[0]
    wanted = reference.measure(segments[1:], rules).floats[0]
    assert found[MAX_ABS] == wanted[MAX_ABS]
    np.testing.assert_allclose(found[SQUARED_NORM], wanted[SQUARED_NORM], rtol=2.0**-30, atol=0)


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("size", [SMALLEST, 2.0**-127, 2.0**-98, 2.0**-97, 1e-19, 1e-3, 1.0, 1e19, LARGEST])
def test_all_of_the_same_size(size: float) -> None:
    """Squares of the first and the last ones are no values of float32; nor are the powers of two that make them 1."""
    check(torch.full((COUNT,), size))


@pytest.mark.parametrize("exponents", [(-149, -120), (-30, 0), (90, 127), (-149, 127)])
def test_of_all_sizes_within_a_row(exponents: tuple[int, int]) -> None:
    sizes = random(1).uniform(1, 2, COUNT) * 2.0 ** random(2).integers(*exponents, COUNT)
    check(torch.from_numpy(np.minimum(sizes, LARGEST)))


def test_many_small_ones_beside_a_large_one() -> None:
    """What is cut off from each of 15 is the most that it can be."""
    sizes = torch.full((COUNT // 16, 16), 2.0**-6 * (2 - 2.0**-23))
    sizes[:, 3] = 1.0
    check(sizes.flatten())


def test_what_is_not_finite_does_not_count() -> None:
    sizes = torch.ones(COUNT)
    sizes[::5], sizes[1::5], sizes[2::5] = float("inf"), float("nan"), -3.0
    check(sizes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_of_sixteen_bits_add_up_exactly(dtype: torch.dtype) -> None:
    check(torch.from_numpy(random(3).standard_normal(COUNT) * 1e-2).to(dtype), dtype)
