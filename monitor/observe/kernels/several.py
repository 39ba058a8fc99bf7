"""For a model that is spread over several devices: each part is measured where it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from monitor.observe.kernels.contract import FIXED_COLUMNS, Counts, Kernel, Rules, Segment


class SeveralDevices:
    """Measures the segments of each device with a kernel of its own.

    Args:
        make_kernel: makes a kernel for segments on one device; it may remember them.
    """

    def __init__(self, make_kernel: Callable[[Sequence[Segment], Rules], Kernel]) -> None:
        self._make_kernel = make_kernel
        self._segments: Sequence[Segment] | None = None
        self._parts: list[tuple[list[int], list[Segment], Kernel]] = []

    def __call__(self, segments: Sequence[Segment], rules: Rules) -> Counts:
        """Measure each segment; see contract.py for shapes. The counts are in host memory."""
        if segments is not self._segments:
            self._take(segments, rules)
        references = max((len(segment.references) for segment in segments), default=0)
        columns = FIXED_COLUMNS + len(rules.tolerances) + references
        integers = torch.zeros(len(segments), columns, dtype=torch.int64)
        floats = torch.zeros(len(segments), 2, dtype=torch.float64)
        # All devices work before the first one is waited for.
        measured = [(rows, self._measure(part, kernel, rules)) for rows, part, kernel in self._parts]
        for rows, counts in measured:
            integers[rows, : counts.integers.shape[1]] = counts.integers.cpu()
            floats[rows] = counts.floats.cpu()
        return Counts(integers, floats)

    def _take(self, segments: Sequence[Segment], rules: Rules) -> None:
        self._segments = segments
        rows: dict[torch.device, list[int]] = {}
        for row, segment in enumerate(segments):
            rows.setdefault(segment.current.device, []).append(row)
        parts = [(some, [segments[row] for row in some]) for some in rows.values()]
        self._parts = [(some, part, self._make_kernel(part, rules)) for some, part in parts]

    @staticmethod
    def _measure(segments: list[Segment], kernel: Kernel, rules: Rules) -> Counts:
        device = segments[0].current.device
        if device.type != "cuda":
            return kernel(segments, rules)
        with torch.cuda.device(device):
            return kernel(segments, rules)
