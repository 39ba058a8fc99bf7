"""For a model that is spread over several devices: the segments of each are measured where they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monitor.observe.kernels.contract import Bind, Counts, Rules, Segment
from monitor.observe.kernels.transfer import to_device


class SeveralDevices:
    """Measures the segments of each device with a kernel of its own.

    Args:
        segments: on any devices.
        rules: how to compare.
        bind: makes a kernel for segments on one device.
    """

    def __init__(self, segments: Sequence[Segment], rules: Rules, bind: Bind) -> None:
        self._segments, self._rules = segments, rules
        devices = [segment.current.device for segment in segments]
        self._home = next((device for device in devices if device.type == "cuda"), torch.device("cpu"))
        rows: dict[torch.device, list[int]] = {}
        for row, device in enumerate(devices):
            rows.setdefault(device, []).append(row)
        self._bound = [
            (to_device(torch.tensor(some, device="cpu"), self._home), bind([segments[row] for row in some], rules))
            for some in rows.values()
        ]

    def __call__(self) -> Counts:
        """Measure each segment. The counts are on the first GPU; the host does not wait.

        Copies between GPUs come in the order of the current streams of both.
        """
        counts = Counts.zeros(self._segments, self._rules, self._home)
        # All devices work before what they counted is brought together.
        measured = [(rows, kernel()) for rows, kernel in self._bound]
        for rows, found in measured:
            counts.put(rows, Counts(self._bring(found.integers), self._bring(found.floats)))
        return counts

    def _bring(self, counts: torch.Tensor) -> torch.Tensor:
        return to_device(counts, self._home) if counts.device.type == "cpu" else counts.to(self._home)
