"""Independent computations in numpy float64, and updates that go wrong easily."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from tests.observe.kernels.cases import moved, random_weights

Array = npt.NDArray[np.float64]


def exact(weights: torch.Tensor) -> Array:
    """The values as they are: float64 holds all of every dtype here."""
    array: Array = weights.double().numpy()
    return array


def rounded(weights: torch.Tensor, dtype: torch.dtype) -> Array:
    """The values rounded to the nearest one of a dtype, to even where two are as near, found among all its values."""
    grid = _values(dtype)
    values = exact(weights)
    finite = np.isfinite(values)
    found = values.copy()
    right = np.clip(np.searchsorted(grid, values[finite]), 1, grid.size - 1)
    below, above = grid[right - 1], grid[right]
    down, up = values[finite] - below, above - values[finite]
    even = (right - 1) % 2 == grid.searchsorted(0.0) % 2
    found[finite] = np.where((down < up) | ((down == up) & even), below, above)
    # One step beyond the largest number is infinity.
    found[finite & (np.abs(found) > torch.finfo(dtype).max)] *= np.inf
    return found


def _values(dtype: torch.dtype) -> Array:
    """All finite values of a 16-bit dtype in ascending order, 0 once, and at each end what would come next."""
    positive = exact(torch.arange(1 << 15, dtype=torch.int32).to(torch.int16).view(dtype))
    positive = positive[np.isfinite(positive)]
    positive = np.append(positive, 2 * positive[-1] - positive[-2])
    return np.concatenate([-positive[:0:-1], positive])


def steps_between(before: Array, after: Array, dtype: torch.dtype) -> npt.NDArray[np.int64]:
    """How many values of a 16-bit dtype lie from one to the other, by their places among all of them."""
    grid = _values(dtype)
    return np.abs(np.searchsorted(grid, after) - np.searchsorted(grid, before))


def sized_difference(before: Array, after: Array) -> Array:
    """The difference, rounded to float32; 0 where there is none, and where it is NaN or infinite."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = (after - before).astype(np.float32).astype(np.float64)
    return np.where((before != after) & np.isfinite(difference), difference, 0)


def nasty_pair(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights with NaN, ±0, ±∞, subnormals and one-step moves, before and after."""
    rng = np.random.default_rng(seed)
    base = random_weights(int(np.prod(shape)), dtype, rng)
    return base.view(shape), moved(base, rng).view(shape)


def sparse_pair(shape: tuple[int, int], density: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights as a model has them, in bfloat16, of which a share moved by some representable steps."""
    generator = torch.Generator().manual_seed(seed)
    base = (0.02 * torch.randn(shape, generator=generator)).bfloat16()
    sizes = 1 + torch.randint(0, 4, shape, generator=generator) * 2.0**-7
    moves = torch.rand(shape, generator=generator) < density
    return base, torch.where(moves, base * sizes.bfloat16(), base)
