"""For a model that is spread over several devices: each part is measured where it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from monitor.observe.kernels.contract import FIXED_COLUMNS, Counts, Kernel, Rules, Segment
from monitor.observe.kernels.transfer import to_device


class SeveralDevices:
    """Measures the segments of each device with a kernel of its own.

    Args:
        make_kernel: makes a kernel for segments on one device; it may remember them.
    """

    def __init__(self, make_kernel: Callable[[Sequence[Segment], Rules], Kernel]) -> None:
        self._make_kernel = make_kernel
        self._segments: Sequence[Segment] | None = None
        self._parts: list[tuple[torch.Tensor, list[Segment], Kernel]] = []
        self._home = torch.device("cpu")

    def __call__(self, segments: Sequence[Segment], rules: Rules) -> Counts:
        """Measure each segment; see contract.py for shapes. The counts are on the first GPU; the host does not wait.

        Copies between GPUs come in the order of the current streams of both.
        """
        self.prepare(segments, rules)
        references = max((len(segment.references) for segment in segments), default=0)
        columns = FIXED_COLUMNS + len(rules.tolerances) + references
        integers = torch.zeros(len(segments), columns, dtype=torch.int64, device=self._home)
        floats = torch.zeros(len(segments), 2, dtype=torch.float64, device=self._home)
        # All devices work before what they counted is brought together.
        measured = [(rows, kernel(part, rules)) for rows, part, kernel in self._parts]
        for rows, counts in measured:
            integers[:, : counts.integers.shape[1]].index_copy_(0, rows, self._bring(counts.integers))
            floats.index_copy_(0, rows, self._bring(counts.floats))
        return Counts(integers, floats)

    def _bring(self, counts: torch.Tensor) -> torch.Tensor:
        return to_device(counts, self._home) if counts.device.type == "cpu" else counts.to(self._home)

    def prepare(self, segments: Sequence[Segment], rules: Rules) -> None:
        """Make the kernel of each device."""
        if segments is self._segments:
            return
        self._segments = segments
        devices = [segment.current.device for segment in segments]
        self._home = next((device for device in devices if device.type == "cuda"), torch.device("cpu"))
        rows: dict[torch.device, list[int]] = {}
        for row, segment in enumerate(segments):
            rows.setdefault(segment.current.device, []).append(row)
        self._parts = []
        for some in rows.values():
            part = [segments[row] for row in some]
            where = to_device(torch.tensor(some, device="cpu"), self._home)
            self._parts.append((where, part, self._make_kernel(part, rules)))
