"""How large the base is: Σ|θ₀|² of each parameter, which the size of an update is set against."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monitor.observe.base.weights import BaseWeights
from monitor.observe.chunk_sizes import FINGERPRINT_ON_GPU, elements_on
from monitor.observe.criterion import visible
from monitor.observe.ranks import Ranks
from monitor.observe.weights.measured import MeasuredWeights


def squared_norms(
    base: BaseWeights, measured: Sequence[MeasuredWeights], visible_dtype: torch.dtype, ranks: Ranks
) -> dict[str, float]:
    """Return Σ|θ₀|² of the visible base weights, over finite ones: parameter name → of the whole parameter.

    All processes must call this; those of shards add up to that of the whole, to rounding.
    """

    def here() -> torch.Tensor:
        parts = [float(squared_norm(visible(base.of(w).to(w.source.device), visible_dtype))) for w in measured]
        return torch.tensor(parts, dtype=torch.float64, device="cpu")

    return by_name(measured, ranks.sum_floats(ranks.all_or_none(here)))


def by_name(measured: Sequence[MeasuredWeights], sums: torch.Tensor) -> dict[str, float]:
    """Return the sum of each parameter by its name."""
    return {weights.name: float(each) for weights, each in zip(measured, sums.tolist(), strict=True)}


def squared_norm(weights: torch.Tensor) -> torch.Tensor:
    """Return Σ w² over finite weights, float64 of shape (), in host memory."""
    flat = weights.reshape(-1)
    total = torch.zeros((), dtype=torch.float64, device=flat.device)
    for chunk in torch.split(flat, elements_on(flat.device, FINGERPRINT_ON_GPU)):
        finite = torch.nan_to_num(chunk.to(torch.float64), nan=0.0, posinf=0.0, neginf=0.0)
        total += torch.dot(finite, finite)
    return total.cpu()
