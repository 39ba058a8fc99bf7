"""Files of structural masks, made of a checkpoint: what a training that starts from it makes, too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from monitor.analysis.checkpoint import Checkpoint
from monitor.observe.base.fingerprint import fingerprint_of, span_sums
from monitor.observe.criterion import dtype_name
from monitor.observe.masks.file import MaskMetadata, write_mask
from monitor.observe.masks.structural import Kind, StructuralMask

Progress = Callable[[int], None]


def passes(mask: StructuralMask) -> int:
    """Return how often `write_structural` goes through all weights."""
    return 2 if mask.kind is Kind.LOWEST else 1


def write_structural(
    path: Path, mask: StructuralMask, base: Checkpoint, visible_dtype: torch.dtype, advance: Progress
) -> int:
    """Write a structural mask of all parameters of a checkpoint, and return its number of ones.

    Args:
        path: the file.
        mask: which weights are marked.
        base: the checkpoint. In memory is one parameter at a time.
        visible_dtype: dtype in which weights are compared.
        advance: called with the number of weights that were gone through since.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        OSError: the file cannot be written; what was at `path` is still there.
    """
    metadata = vars(_metadata(mask, base, visible_dtype, advance)) | {"made_by": str(mask), "made_of": base.source}
    write_mask(path, _words(mask, base, visible_dtype, advance), base.shapes, metadata)
    return sum(mask.ones(math.prod(shape)) for shape in base.shapes.values())


def _metadata(mask: StructuralMask, base: Checkpoint, visible_dtype: torch.dtype, advance: Progress) -> MaskMetadata:
    if mask.kind is Kind.RANDOM:
        # It is that of every base with these parameters.
        return MaskMetadata()
    rows = []
    for name, shape in base.shapes.items():
        rows.append((name, shape, span_sums(base.read(name).reshape(-1), visible_dtype, 0).tolist()))
        advance(math.prod(shape))
    return MaskMetadata(visible_dtype=dtype_name(visible_dtype), base_fingerprint=fingerprint_of(rows))


def _words(
    mask: StructuralMask, base: Checkpoint, visible_dtype: torch.dtype, advance: Progress
) -> Iterator[torch.Tensor]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, shape in base.shapes.items():
        yield mask.words_of(name, shape, partial(base.read, name), visible_dtype, device)
        advance(math.prod(shape))
