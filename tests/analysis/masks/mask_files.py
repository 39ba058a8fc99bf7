"""Mask files for tests, and the same masks as numpy has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from monitor.observe.masks.file import MaskMetadata
from monitor.observe.masks.mask import UpdateMask

Bools: TypeAlias = dict[str, npt.NDArray[np.bool_]]

# Over a word and not a multiple of it, one-dimensional, empty, of one weight, without a dimension.
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (37, 29),
    "model.layers.0.self_attn.q_proj.weight": (64, 33),
    "model.layers.0.mlp.up_proj.weight": (0, 8),
    "model.layers.11.self_attn.q_proj.weight": (31,),
    "model.layers.11.mlp.up_proj.weight": (65, 5),
    "model.norm.weight": (1,),
    "scale": (),
}
MEASURED = MaskMetadata("bits", "bfloat16", "ab" * 16, 7, "run")


def random_bools(seed: int, densities: Mapping[str, float] | float = 0.3) -> Bools:
    generator = np.random.default_rng(seed)
    of = densities if isinstance(densities, Mapping) else dict.fromkeys(SHAPES, densities)
    return {name: np.asarray(generator.random(shape) < of.get(name, 0.3)) for name, shape in SHAPES.items()}


def save(path: Path, bools: Bools, metadata: MaskMetadata = MEASURED) -> Path:
    UpdateMask.from_bools({name: torch.from_numpy(bits) for name, bits in bools.items()}, metadata).save(path)
    return path


def load(path: Path) -> Bools:
    mask = UpdateMask.load(path)
    return {name: mask.bools(name).numpy() for name in mask.shapes}
