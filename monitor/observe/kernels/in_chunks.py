"""The specification, which makes intermediates of the size of what it is given, on one chunk after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monitor.observe.kernels import reference
from monitor.observe.kernels.contract import Counts, Rules, Segment, spans
from monitor.observe.kernels.transfer import to_device


class ReferenceInChunks:
    """Measures segments as contract.py says, where they are, without waiting for the device.

    Args:
        segments: at least one, all on one device. What is not contiguous is one chunk.
        rules: how to compare.
        weights: of a chunk; a multiple of 32.
    """

    def __init__(self, segments: Sequence[Segment], rules: Rules, weights: int) -> None:
        self._segments, self._rules = segments, rules
        self._device = segments[0].current.device
        cut = [(row, span) for row, segment in enumerate(segments) for span in spans(segment, weights)]
        self._spans = [span for _, span in cut]
        self._rows = to_device(torch.tensor([row for row, _ in cut], device="cpu"), self._device)

    def __call__(self) -> Counts:
        """Measure each segment."""
        counts = Counts.zeros(self._segments, self._rules, self._device)
        counts.add(self._rows, reference.measure(self._spans, self._rules))
        return counts
