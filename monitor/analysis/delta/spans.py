"""Blocks of a tensor on disk as bit patterns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
import torch

from monitor.analysis.delta.blocks import Bits
from monitor.analysis.stored import StoredTensor

Width: TypeAlias = Literal[1, 2, 4, 8]


def width_of(tensor: StoredTensor) -> Width:
    """Return the bytes of a value."""
    widths: dict[int, Width] = {1: 1, 2: 2, 4: 4, 8: 8}
    return widths[tensor.dtype.itemsize]


def size_of(tensor: StoredTensor) -> int:
    """Return the bytes of a tensor."""
    return tensor.count * tensor.dtype.itemsize


def spans(count: int, block_values: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of each block of `count` values.

    >>> list(spans(5, 2))
    [(0, 2), (2, 4), (4, 5)]
    """
    for first in range(0, count, block_values):
        yield first, min(first + block_values, count)


def read_bits(tensor: StoredTensor, first: int, last: int) -> Bits:
    """Return the values from `first` to `last`, without `last`.

    Raises:
        CheckpointError: the file cannot be read.
    """
    values = torch.empty(last - first, dtype=tensor.dtype, device="cpu")
    tensor.read_span(first, values)
    return values.view(torch.uint8).numpy().view(f"<u{tensor.dtype.itemsize}")


def read_source(tensor: StoredTensor, first: int, last: int) -> Bits:
    """Return the same of a source, which may have fewer values: as many of them as it has."""
    return read_bits(tensor, min(first, tensor.count), min(last, tensor.count))


def filled(bits: Bits, count: int) -> Bits:
    """Return `count` values, zeros after those that there are."""
    return bits if len(bits) == count else np.concatenate([bits, np.zeros(count - len(bits), bits.dtype)])
