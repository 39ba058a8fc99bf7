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
from monitor.subnetwork.packed import moves_each_weight_by_itself, whole_state


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
        self.undo()
        for tensor, inside in self._covered():
            self._expand_state(tensor, inside)
            if inside.is_everything:
                continue
            zero_outside(tensor.grad, inside)
            self._saved.append((tensor, inside, local(tensor).clone()))

    def after(self) -> None:
        """Put back what the step has moved outside the mask."""
        for tensor, inside, saved in self._saved:
            weights = local(tensor)
            weights.copy_(torch.where(inside.bools(), weights, saved))
        self._saved = []

    def undo(self) -> None:
        """Put back what a step that raised has moved outside the mask."""
        self.after()

    def _expand_state(self, tensor: torch.Tensor, inside: Inside) -> None:
        state = self._optimizer.state.get(tensor)
        # Others keep what they like.
        if state and moves_each_weight_by_itself(self._optimizer):
            state.update(whole_state(state, tensor, inside))

    def _covered(self) -> Iterator[tuple[torch.Tensor, Inside]]:
        for group in self._optimizer.param_groups:
            for tensor in group["params"]:
                # A frozen one without a gradient is no optimizer's business.
                if tensor.grad is None and not self._coverage.covers(tensor):
                    continue
                yield tensor, self._coverage.of(tensor)
