"""Which weights of a parameter are measured by this process, and where they live."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from monitor.observe.weights.shard import Part


@dataclass(frozen=True, kw_only=True)
class MeasuredWeights(Part):
    """The part of a parameter that this process measures.

    Attributes:
        held: returns the tensor that holds the weights on this process. Called anew at every observation, since
            wrappers exchange the storage of a parameter (`parameter.data = …`).
        first_held: index within the flattened block of the first weight that `held()` has.
        effective: computes the whole parameter from what `held()` has and from adapters, a new tensor at each call.
        original: the frozen parameter that this one started from, where the model holds it anyway.
        dequantised: computes what this one started from, where the model holds that quantised.
    """

    held: Callable[[], torch.Tensor]
    first_held: int = 0
    effective: Callable[[], torch.Tensor] | None = None
    original: torch.Tensor | None = None
    dequantised: Callable[[], torch.Tensor] | None = None

    @property
    def source(self) -> torch.Tensor:
        """The tensor that holds the weights on this process."""
        return self.held()

    def live(self) -> torch.Tensor:
        """Return the weights as they are now, any shape and strides, `count` elements.

        Without a copy, unless adapters make them.
        """
        if self.effective is not None and self.count:
            return self.effective()
        weights = self.source.detach()
        return weights if self.count == weights.numel() else self._run_of(weights)

    def _run_of(self, held: torch.Tensor) -> torch.Tensor:
        if not self.count:
            # Also of what is not contiguous, which has no view.
            return held.new_empty(0)
        return held.view(-1)[self.start - self.first_held : self.stop - self.first_held]

    def of_twin(self, twin: torch.Tensor) -> torch.Tensor:
        """Return the same weights of a tensor that is laid out like `held()`, without a copy; shape (count,)."""
        return twin.detach().reshape(-1)[self.start - self.first_held : self.stop - self.first_held]

    def indices(self, first: int, last: int) -> torch.Tensor:
        """Return where the weights from `first` to `last` of the run are in the flattened parameter; int64."""
        local = torch.arange(self.start + first, self.start + last, device=self.source.device)
        if self._is_run_of_whole:
            return local
        index = torch.zeros_like(local)
        stride, rest = 1, local
        for (low, high), size in zip(reversed(self.box), reversed(self.shape), strict=True):
            index += (rest % (high - low) + low) * stride
            rest = rest // (high - low)
            stride *= size
        return index
