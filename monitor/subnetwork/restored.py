"""A step of any optimizer: what it does to weights outside the mask is taken back.

Also weight decay, momentum from before and updates of whole matrices move weights whose gradient is zero. They are
copied just before the step and put back just after it, so that the copy is there for the time of the step only, when
the activations are not.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from monitor.subnetwork.coverage import Coverage, Inside, local
from monitor.subnetwork.gradients import zero_outside


class RestoredStep:
    """Keeps the weights outside the mask in an optimizer's step; its state is that of all weights.

    Args:
        optimizer: the optimizer.
        coverage: what is inside the mask.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, coverage: Coverage) -> None:
        self._optimizer = optimizer
        self._coverage = coverage
        self._saved: list[tuple[torch.Tensor, Inside, torch.Tensor]] = []

    @property
    def state_bytes(self) -> tuple[int, int]:
        """Bytes of the state, twice: none is saved."""
        states = self._optimizer.state.values()
        held = sum(
            local(value).nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor)
        )
        return held, held

    def before(self) -> None:
        """Copy what the step may move, and see that the gradient is zero outside."""
        self._saved = []
        for tensor, inside in self._partly_inside():
            zero_outside(tensor.grad, inside)
            self._saved.append((tensor, inside, local(tensor).clone()))

    def after(self) -> None:
        """Put back what the step has moved outside the mask."""
        for tensor, inside, saved in self._saved:
            weights = local(tensor)
            weights.copy_(torch.where(inside.bools(), weights, saved))
        self._saved = []

    def _partly_inside(self) -> Iterator[tuple[torch.Tensor, Inside]]:
        for group in self._optimizer.param_groups:
            for tensor in group["params"]:
                # A frozen one without a gradient is no optimizer's business.
                if tensor.grad is None and not self._coverage.covers(tensor):
                    continue
                inside = self._coverage.of(tensor)
                if not inside.is_everything:
                    yield tensor, inside
