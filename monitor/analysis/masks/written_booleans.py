"""Masks written for others, a boolean for each weight: safetensors, a state dict of torch.save, numpy's .npz."""

from __future__ import annotations

import math
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from monitor.observe.bits import BITS_PER_WORD, unpack, word_count
from monitor.observe.chunk_sizes import WORDS_OF_A_FILE
from monitor.observe.masks.file import MaskFile, safetensors_header, written_whole

Advance: TypeAlias = Callable[[int], None]


def write_safetensors(path: Path, mask: MaskFile, advance: Advance) -> None:
    """Write booleans as a safetensors file, with all that the mask says of itself.

    Args:
        advance: called with the number of weights that were written since.

    Raises:
        MaskFileError: the mask is damaged.
        OSError: the file cannot be written; what was at `path` is still there.
    """
    with written_whole(path) as file:
        file.write(safetensors_header("BOOL", 1, mask.shapes, _said(mask)))
        for name in mask.shapes:
            for chunk in _booleans(mask, name, advance):
                file.write(chunk.numpy().data)


def write_npz(path: Path, mask: MaskFile, advance: Advance) -> None:
    """Write booleans as numpy.savez does, one array for each parameter. As `write_safetensors`."""
    with written_whole(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, shape in mask.shapes.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                header = {"descr": "|b1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(entry, header)
                for chunk in _booleans(mask, name, advance):
                    entry.write(chunk.numpy().data)


def write_torch(path: Path, mask: MaskFile, advance: Advance) -> None:
    """Write booleans as a state dict that `torch.load` reads. As `write_safetensors`.

    `torch.save` wants all tensors at once. They are in a file beside it meanwhile, mapped into memory.
    """
    with written_whole(path) as file, tempfile.TemporaryFile(dir=path.parent) as whole:
        for name in mask.shapes:
            for chunk in _booleans(mask, name, advance):
                whole.write(chunk.numpy().data)
        whole.flush()
        total = whole.tell()
        flat = np.memmap(whole, np.bool_, "r+", shape=(total,)) if total else np.empty(0, np.bool_)
        torch.save(dict(_views(flat, mask)), file)


def _views(flat: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], mask: MaskFile) -> Iterator[tuple[str, torch.Tensor]]:
    start = 0
    for name, shape in mask.shapes.items():
        end = start + math.prod(shape)
        yield name, torch.from_numpy(flat[start:end]).view(shape)
        start = end


def _said(mask: MaskFile) -> dict[str, str]:
    # What makes a file of ours of it, and what the header says anyway.
    return {name: text for name, text in mask.fields.items() if name not in ("format", "format_version", "shapes")}


def _booleans(mask: MaskFile, name: str, advance: Advance) -> Iterator[torch.Tensor]:
    weights = math.prod(mask.shapes[name])
    for first in range(0, word_count(weights), WORDS_OF_A_FILE):
        words = mask.read(name, first, first + WORDS_OF_A_FILE)
        booleans = unpack(words, min(words.numel() * BITS_PER_WORD, weights - first * BITS_PER_WORD))
        yield booleans
        advance(booleans.numel())
