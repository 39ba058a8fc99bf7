"""The smallest and the largest weights of a matrix, by the one definition that reference masks of training have."""

from __future__ import annotations

import torch

from monitor.observe.bits import unpack
from monitor.observe.masks.structural import Kind, StructuralMask


def smallest(name: str, weights: torch.Tensor, share: float, visible_dtype: torch.dtype) -> torch.Tensor:
    """Return a boolean mask of the share of smallest magnitude: "lowest:SHARE" of masks/structural.py, ⌊share · n⌋.

    Args:
        name: of the matrix; equal magnitudes at the limit are chosen among by it.
        weights: any shape.
        share: above 0 and up to 1.
        visible_dtype: dtype in which magnitudes are compared.
    """
    mask = StructuralMask(Kind.LOWEST, share)
    words = mask.words_of(name, tuple(weights.shape), lambda: weights, visible_dtype, weights.device)
    return unpack(words, weights.numel()).view(weights.shape)


def largest(name: str, weights: torch.Tensor, share: float, visible_dtype: torch.dtype) -> torch.Tensor:
    """Return a mask of the share of largest magnitude: what "lowest" of the other share leaves, ⌈share · n⌉."""
    # In binary, 1 − 0.07 is a little less than 0.93.
    return ~smallest(name, weights, round(1 - share, 12), visible_dtype)
