"""The fingerprint of a base: resumed runs and masks of other runs are recognised by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence

import torch

from monitor.observe.base.weights import BaseWeights
from monitor.observe.chunk_sizes import FINGERPRINT_ON_GPU, elements_on
from monitor.observe.criterion import visible
from monitor.observe.kernels.sums import compiled_sums
from monitor.observe.ranks import Ranks
from monitor.observe.weights.measured import MeasuredWeights

# Multipliers of splitmix64, as signed 64-bit numbers.
_MIX = (-0x61C8864680B583EB, -0x4B47D0C5BC6DBC27)


def fingerprint(
    base: BaseWeights, measured: Sequence[MeasuredWeights], visible_dtype: torch.dtype, ranks: Ranks
) -> str:
    """Return 32 hexadecimal digits that name the visible base weights.

    Independent of the stored dtype, the device, the order of parameters, and of how they are spread over processes.
    """

    def here() -> torch.Tensor:
        sums = (weight_sums(visible(base.of(w).to(w.source.device), visible_dtype), w.indices) for w in measured)
        return torch.stack(list(sums))

    everywhere = ranks.sum_of(here).tolist()
    return fingerprint_of((w.name, w.shape, sums) for w, sums in zip(measured, everywhere, strict=True))


def fingerprint_of(parameters: Iterable[tuple[str, tuple[int, ...], Sequence[int]]]) -> str:
    """Return the fingerprint of (name, shape, both sums of `weight_sums`) of each parameter, in any order."""
    lines = [json.dumps([name, list(shape), *sums]) for name, shape, sums in parameters]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:32]


def span_sums(weights: torch.Tensor, visible_dtype: torch.dtype, first: int) -> torch.Tensor:
    """Return the `weight_sums` of a span of a parameter that begins at its weight `first`; many times faster on a CPU.

    Args:
        weights: stored weights, contiguous.
        visible_dtype: to be rounded to.
        first: index of the first of them in the parameter.
    """
    seen = visible(weights, visible_dtype)
    if seen.device.type == "cpu" and (sums := compiled_sums(seen, first)) is not None:
        return sums
    device = seen.device
    return weight_sums(seen, lambda begin, end: torch.arange(first + begin, first + end, device=device))


def weight_sums(weights: torch.Tensor, indices: Callable[[int, int], torch.Tensor]) -> torch.Tensor:
    """Return Σ bᵢ and Σ bᵢ·rᵢ modulo 2⁶⁴ as int64 of shape (2,), b the bit patterns of the weights.

    r is pseudo-random from the index of the weight in its parameter, `indices(first, last)`. The sums of shards add up
    to those of the whole.
    """
    bits = weights.reshape(-1).view(torch.int16 if weights.element_size() == 2 else torch.int32)
    sums = torch.zeros(2, dtype=torch.int64, device=bits.device)
    step = elements_on(bits.device, FINGERPRINT_ON_GPU)
    for start in range(0, bits.numel(), step):
        chunk = bits[start : start + step].to(torch.int64)
        mixed = chunk * _pseudo_random(indices(start, start + chunk.numel()))
        sums += torch.stack([chunk.sum(), mixed.sum()])
    return sums.cpu()


def _pseudo_random(index: torch.Tensor) -> torch.Tensor:
    index = (index + 1) * _MIX[0]
    index = (index ^ (index >> 31)) * _MIX[1]
    return index ^ (index >> 29)
