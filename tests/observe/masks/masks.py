"""Masks for tests."""

from __future__ import annotations

import torch

from monitor.observe.masks.file import MaskMetadata
from monitor.observe.masks.mask import UpdateMask

# Over the size of a chunk, and not a multiple of it.
SHAPES = {"a.weight": (1 << 10, 1500), "b.weight": (33,), "c.weight": (0,)}


def random_mask(seed: int, density: float = 0.3) -> UpdateMask:
    generator = torch.Generator().manual_seed(seed)
    bools = {name: torch.rand(shape, generator=generator) < density for name, shape in SHAPES.items()}
    return UpdateMask.from_bools(bools, MaskMetadata("bits", "bfloat16", "ab", 5, "run"))
