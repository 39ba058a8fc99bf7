"""Which matrices a parameter consists of: itself, the experts of a stack, or a convolution as it is applied."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_STACKED = re.compile(r"(?:^|\.)experts\.")


@dataclass(frozen=True)
class MatrixPlace:
    """One matrix within a parameter.

    Attributes:
        name: of the parameter, with "[7]" after it for the eighth expert of a stack.
        index: of the matrix in the stack; None where the parameter is one matrix.
        shape: (rows, columns).
    """

    name: str
    index: int | None
    shape: tuple[int, int]


def matrices_of(name: str, shape: tuple[int, ...]) -> Iterator[MatrixPlace]:
    """Yield the matrices of a parameter; none of one with less than two dimensions, of a bias, or of no weights.

    A parameter of experts that has three dimensions is a stack of matrices. Any other with more than two is a
    convolution, whose matrix has a row per output channel.

    >>> [place.name for place in matrices_of("layers.0.mlp.experts.down_proj", (2, 8, 4))]
    ['layers.0.mlp.experts.down_proj[0]', 'layers.0.mlp.experts.down_proj[1]']
    >>> next(matrices_of("patch_embed.weight", (8, 3, 2, 2))).shape
    (8, 12)
    """
    # A stack of biases has two dimensions and is no matrix.
    if len(shape) < 2 or not math.prod(shape) or name.endswith("bias"):
        return
    if len(shape) == 3 and _STACKED.search(name):
        yield from (MatrixPlace(f"{name}[{i}]", i, (shape[1], shape[2])) for i in range(shape[0]))
    else:
        yield MatrixPlace(name, None, (shape[0], math.prod(shape[1:])))
