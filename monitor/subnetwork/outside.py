"""The weights outside the mask, named by a fingerprint: whether something has moved them since."""

from __future__ import annotations

import torch

from monitor.observe.base.fingerprint import weight_sums
from monitor.subnetwork.coverage import Coverage, local


class OutsideWeights:
    """What the weights outside the mask are now, 16 bytes for each parameter.

    Args:
        coverage: what is inside the mask, of the parameters that train now.
    """

    def __init__(self, coverage: Coverage) -> None:
        self._coverage = coverage
        self._then = {name: self._sums(p) for name, p in coverage.trainable.items()}

    def moved(self) -> list[str]:
        """Return the parameters with other weights outside the mask than then, in what this process holds."""
        return [
            name for name, p in self._coverage.trainable.items() if not torch.equal(self._then[name], self._sums(p))
        ]

    def _sums(self, parameter: torch.Tensor) -> torch.Tensor:
        weights = local(parameter)
        inside = self._coverage.of(parameter).bools()
        outside = torch.where(inside, 0, weights).reshape(-1)
        return weight_sums(outside, lambda first, last: torch.arange(first, last, device=outside.device))
