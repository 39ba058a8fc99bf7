"""What others do, to compare with: each takes the weights now and before, bfloat16 or float32, in host memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

Tensors = Sequence[torch.Tensor]

_THRESHOLDS = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
_BITS = {2: torch.int16, 4: torch.int32}


def bare_comparison(now: Tensors, before: Tensors) -> None:
    """Run `np.packbits(a != b)` over the arrays of bit patterns, on one thread: what nobody can do with less work."""
    for a, b in zip(now, before, strict=True):
        bits = _BITS[a.element_size()]
        np.packbits(a.view(bits).numpy().reshape(-1) != b.view(bits).numpy().reshape(-1))


def subtract_and_concatenate(now: Tensors, before: Tensors) -> float:
    """Subtract two models, concatenate all differences, count those that `isclose` to zero (arXiv 2505.11711)."""
    deltas = torch.cat([(a - b).view(-1) for a, b in zip(now, before, strict=True)])
    close = torch.isclose(deltas, torch.zeros((), dtype=deltas.dtype), atol=1e-5)
    return float(close.sum() / deltas.numel())


def clone_to_float32(now: Tensors, snapshot: list[torch.Tensor]) -> list[float]:
    """Clone each weight to float32, compare with its last clone at six thresholds (the tracker of arXiv 2602.03839).

    Args:
        now: the weights.
        snapshot: the last clones; replaced by the new ones.
    """
    counts = np.zeros(len(_THRESHOLDS))
    for i, tensor in enumerate(now):
        clone = tensor.detach().clone().cpu().float()
        delta = (clone - snapshot[i]).abs()
        counts += [int((delta > threshold).sum()) for threshold in _THRESHOLDS]
        snapshot[i] = clone
    return list(counts / sum(tensor.numel() for tensor in now))
