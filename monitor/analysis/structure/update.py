"""One parameter before and after, as its visible weights: what every quantity of this room is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from monitor.analysis.structure.matrices import MatrixPlace
from monitor.observe.criterion import Criterion, visible
from monitor.observe.kernels.reference import exceeds


@dataclass(frozen=True)
class Update:
    """What training did to one parameter, or to one matrix of it; all tensors have its shape and are on one device.

    Attributes:
        base: visible base weights b(θ₀).
        current: visible fine-tuned weights b(θ).
        delta: Δ = b(θ) − b(θ₀) in float32. 0 where the two are equal, and where Δ is not finite.
        changed: the update mask M under the criterion. NaN always counts as changed.
    """

    base: torch.Tensor
    current: torch.Tensor
    delta: torch.Tensor
    changed: torch.Tensor

    @classmethod
    def between(
        cls, base: torch.Tensor, finetuned: torch.Tensor, visible_dtype: torch.dtype, criterion: Criterion
    ) -> Update:
        """Compare two tensors of one shape, any strides and floating dtypes, by the formulas of kernels/contract.py.

        >>> update = Update.between(torch.ones(2), torch.tensor([1.0, 2.0]), torch.bfloat16, Criterion())
        >>> update.delta.tolist(), update.changed.tolist()
        ([0.0, 1.0], [False, True])
        """
        before, after = (visible(each.detach(), visible_dtype).contiguous() for each in (base, finetuned))
        changed = before != after
        # In place: the matrix of an embedding has half a billion weights.
        delta = after.to(torch.float32, copy=True).sub_(before)
        if criterion.tolerance is not None:
            changed &= exceeds(delta, criterion.tolerance)
        # Of equal infinities Δ is NaN, too.
        return cls(before, after, delta.masked_fill_(~torch.isfinite(delta), 0), changed)

    def matrix(self, place: MatrixPlace) -> Update:
        """Return one matrix of this parameter, of shape (rows, columns): views."""
        base, current, delta, changed = (
            (each if place.index is None else each[place.index]).reshape(place.shape)
            for each in (self.base, self.current, self.delta, self.changed)
        )
        return Update(base, current, delta, changed)

    @property
    def weights(self) -> int:
        """Number of weights, n."""
        return self.base.numel()

    @property
    def without_size(self) -> int:
        """Number of weights that differ by NaN or infinity: they count as changed, and are in no norm or spectrum."""
        return int(((self.base != self.current) & (self.delta == 0)).sum())
