"""For a kernel that makes intermediates of the size of what it is given: it is given one piece after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monitor.observe.kernels.contract import Counts, Kernel, Rules, Segment, floats_of_all
from monitor.observe.kernels.streamed_base import cut


class InPieces:
    """Measures segments piece by piece. What is not contiguous is one piece.

    Args:
        kernel: measures a piece.
        weights: of a piece; a multiple of 32.
    """

    def __init__(self, kernel: Kernel, weights: int) -> None:
        self._kernel = kernel
        self._weights = weights

    def __call__(self, segments: Sequence[Segment], rules: Rules) -> Counts:
        """Measure each segment; see contract.py for shapes. Nothing here lets the host wait."""
        counts = [self._measure(segment, rules) for segment in segments]
        columns = max(each.integers.shape[1] for each in counts)
        integers = [_padded(each.integers, columns) for each in counts]
        return Counts(torch.cat(integers), torch.cat([each.floats for each in counts]))

    def _measure(self, segment: Segment, rules: Rules) -> Counts:
        weights = segment.current.numel()
        if weights <= self._weights or not segment.current.is_contiguous():
            return self._kernel([segment], rules)
        starts = range(0, weights, self._weights)
        pieces = [self._kernel([cut(segment, slice(i, min(i + self._weights, weights)))], rules) for i in starts]
        integers = torch.stack([piece.integers for piece in pieces]).sum(dim=0)
        return Counts(integers, floats_of_all(torch.stack([piece.floats for piece in pieces])))


def _padded(integers: torch.Tensor, columns: int) -> torch.Tensor:
    """Segments with fewer reference masks than others have fewer columns."""
    return torch.nn.functional.pad(integers, (0, columns - integers.shape[1]))
