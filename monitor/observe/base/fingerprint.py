"""The fingerprint of a base: resumed runs and masks of other runs are recognised by it. And how large the base is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch

from monitor.observe.base.norms import by_name, squared_norm
from monitor.observe.base.weights import BaseWeights
from monitor.observe.chunk_sizes import FINGERPRINT_ON_GPU, elements_on
from monitor.observe.criterion import visible
from monitor.observe.kernels.sums import compiled_sums
from monitor.observe.ranks import Ranks
from monitor.observe.weights.measured import MeasuredWeights

# Multipliers of splitmix64, as signed 64-bit numbers.
_MIX = (-0x61C8864680B583EB, -0x4B47D0C5BC6DBC27)


class Identified(NamedTuple):
    """What a base is.

    Attributes:
        fingerprint: 32 hexadecimal digits that name the visible base weights. Independent of the stored dtype, the
            device, the order of parameters, and of how they are spread over processes.
        squared_norms: parameter name → Σ|θ₀|²; see norms.py.
    """

    fingerprint: str
    squared_norms: dict[str, float]


def identify(
    base: BaseWeights,
    measured: Sequence[MeasuredWeights],
    selected: Sequence[MeasuredWeights],
    visible_dtype: torch.dtype,
    ranks: Ranks,
) -> Identified:
    """Return what a base is, out of one walk through it. All processes must call this.

    Args:
        measured: the parameters that the base is of.
        selected: those of them that the fingerprint is of.
    """

    def here() -> tuple[torch.Tensor, torch.Tensor]:
        # One after the other: the base may have to be copied to the device, or dequantised.
        parts = [_look_at(visible(base.of(w).to(w.source.device), visible_dtype), w) for w in measured]
        return torch.stack([sums for sums, _ in parts]), torch.stack([square for _, square in parts])

    sums, squares = ranks.all_or_none(here)
    everywhere = ranks.sum(sums).tolist()
    of_fingerprint = {weights.name for weights in selected}
    digits = fingerprint_of(
        (w.name, w.shape, sums) for w, sums in zip(measured, everywhere, strict=True) if w.name in of_fingerprint
    )
    return Identified(digits, by_name(measured, ranks.sum_floats(squares)))


def _look_at(weights: torch.Tensor, measured: MeasuredWeights) -> tuple[torch.Tensor, torch.Tensor]:
    return weight_sums(weights, measured.indices), squared_norm(weights)


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
