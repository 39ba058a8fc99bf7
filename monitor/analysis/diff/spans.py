"""What is read and measured at a time: a span of a parameter, or, where it cannot be read in part, all of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from monitor.analysis.conversion import Weights
from monitor.analysis.pairs import Pairs
from monitor.analysis.stored import StoredTensor


@dataclass(frozen=True)
class Span:
    """Some of the weights of one parameter, in row-major order, on both sides.

    Attributes:
        row: which of the names it belongs to.
        base, finetuned: the parameter.
        first: index of its first weight in the parameter; a multiple of 32.
        count: number of weights.
    """

    row: int
    base: Weights
    finetuned: Weights
    first: int
    count: int

    @property
    def is_part(self) -> bool:
        """Whether both sides can be read in part: they lie on disk as they are in the model."""
        return all(isinstance(side, StoredTensor) and side.strides is None for side in (self.base, self.finetuned))

    @property
    def dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """How base and fine-tuned weights are stored."""
        return self.base.dtype, self.finetuned.dtype

    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes of each side."""
        return self.count * self.base.dtype.itemsize, self.count * self.finetuned.dtype.itemsize


def spans_of(pairs: Pairs, names: Sequence[str], weights: int) -> Iterator[Span]:
    """Cut parameters into spans of so many weights, a multiple of 32. An empty parameter has none."""
    for row, name in enumerate(names):
        base, finetuned = pairs.base.parameters[name], pairs.finetuned.parameters[name]
        count = math.prod(finetuned.shape)
        whole = Span(row, base, finetuned, 0, count)
        step = weights if whole.is_part else max(count, 1)
        for first in range(0, count, step):
            yield Span(row, base, finetuned, first, min(step, count - first))
