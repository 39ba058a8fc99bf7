"""Which weights of a parameter are measured by this process, and where they live."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MeasuredWeights:
    """A consecutive run of one parameter's weights, in row-major order; all of them unless processes share the work.

    Attributes:
        name: clean name of the parameter.
        source: the tensor that holds the weights on this process. Looked at anew at every observation, since wrappers
            exchange the storage of a parameter (`parameter.data = …`).
        start, stop: the run within `source.reshape(-1)`. Either the whole of it, or `source` is contiguous; `start` is
            a multiple of 32, so that masks of parts are parts of masks.
    """

    name: str
    source: torch.Tensor
    start: int
    stop: int

    @classmethod
    def whole(cls, name: str, source: torch.Tensor) -> MeasuredWeights:
        """Measure every weight of `source`."""
        return cls(name, source, 0, source.numel())

    @property
    def count(self) -> int:
        """Number of weights."""
        return self.stop - self.start

    def live(self) -> torch.Tensor:
        """Return the weights as they are now, without a copy: any shape and strides, `count` elements."""
        weights = self.source.detach()
        return weights if self.count == weights.numel() else weights.view(-1)[self.start : self.stop]

    def part_of(self, whole: torch.Tensor) -> torch.Tensor:
        """Return the same weights of another tensor of the parameter's shape, such as its base; shape (count,)."""
        return whole.detach().reshape(-1)[self.start : self.stop]
