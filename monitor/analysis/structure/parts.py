"""Large tensors in parts, so that what is computed of each takes little memory beside the tensor itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Weights: copies of so many in float64 or int64 take 32 MB.
_AT_A_TIME = 1 << 22


def parts(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the values in row-major order, so many at a time; views where they are contiguous.

    >>> [part.tolist() for part in parts(torch.tensor([[1, 2], [3, 4]]))]
    [[1, 2, 3, 4]]
    """
    flat = values.reshape(-1)
    return (flat[start : start + _AT_A_TIME] for start in range(0, flat.numel(), _AT_A_TIME))
