"""A step of an optimizer that moves each weight by itself: it is given the weights inside the mask, and no others.

For the time of the step its parameters are vectors of these. Whatever it does then, weights outside stay as they are,
and it keeps no state of them. Each weight moves exactly as it does among all: no formula of these optimizers takes in
another weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from monitor.errors import MaskMismatchError
from monitor.subnetwork.coverage import Coverage, Inside, local

_ELEMENTWISE = (
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.SGD,
)
# What these keep once for each parameter.
_OF_THE_PARAMETER = ("step", "mu_product")


def moves_each_weight_by_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer is known to; of a subclass nothing is known."""
    return type(optimizer) in _ELEMENTWISE


class PackedStep:
    """Gives an optimizer the weights inside the mask alone.

    Args:
        optimizer: one that moves each weight by itself.
        coverage: what is inside the mask.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, coverage: Coverage) -> None:
        self._optimizer = optimizer
        self._coverage = coverage
        # With what they were made of, whose ids are the keys of the first.
        self._packed: dict[int, nn.Parameter] = {}
        self._whole: dict[int, nn.Parameter] = {}

    @property
    def state_bytes(self) -> tuple[int, int]:
        """Bytes of the state that is kept, and of what it would be of all weights."""
        kept = full = 0
        for parameter, state in self._optimizer.state.items():
            for name, value in state.items():
                if not isinstance(value, torch.Tensor):
                    continue
                kept += local(value).nbytes
                is_packed = self._coverage.covers(parameter) and _is_packed(name, value, self._coverage.of(parameter))
                full += value.element_size() * local(parameter).numel() if is_packed else local(value).nbytes
        return kept, full

    def before(self) -> None:
        """Put the packed weights, gradients and state in the places of the whole ones."""
        self.undo()
        for group in self._optimizer.param_groups:
            group["params"] = [self._pack(parameter) for parameter in group["params"]]

    def after(self) -> None:
        """Write the packed weights where they belong, and put everything back in its place."""
        for group in self._optimizer.param_groups:
            for packed in group["params"]:
                whole = self._whole.get(id(packed))
                # Without a gradient, it was not stepped.
                if whole is not None and packed.grad is not None:
                    local(whole).masked_scatter_(self._coverage.of(whole).bools(), packed.detach())
        self._put_back()

    def undo(self) -> None:
        """Take back a step that raised: the packed ones are there still, and the whole weights are as before it."""
        self._put_back()

    def state_dict_of_shards(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return what an optimizer's `state_dict()` gave with the state of whole shards in the places of packed ones.

        Only whole ones can be gathered from the processes, and read by other numbers of processes. They are zero
        outside the mask, and take the memory that training all weights takes.
        """
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        states = {
            index: _of_shard(state, parameters[index], self._coverage.of(parameters[index]))
            if hasattr(parameters[index], "device_mesh") and self._coverage.covers(parameters[index])
            else state
            for index, state in state_dict["state"].items()
        }
        return {**state_dict, "state": states}

    def _pack(self, whole: nn.Parameter) -> nn.Parameter:
        if whole.grad is None and not self._coverage.covers(whole):
            # Frozen: the optimizer leaves it alone.
            return whole
        inside = self._coverage.of(whole)
        bools = inside.bools()
        packed = self._packed.get(id(whole))
        if packed is None:
            packed = self._packed[id(whole)] = nn.Parameter(_inside(whole, bools))
            self._whole[id(packed)] = whole
        else:
            # Somebody else may have written to the weights since.
            packed.detach().copy_(_inside(whole, bools))
        if whole.grad is not None:
            # Also of no weights: the other processes have some, and keep state of this parameter.
            packed.grad = _inside(whole.grad, bools)
        if (state := self._optimizer.state.pop(whole, None)) is not None:
            self._optimizer.state[packed] = _pack_state(state, whole, inside)
        return packed

    def _put_back(self) -> None:
        for group in self._optimizer.param_groups:
            group["params"] = [self._whole.get(id(each), each) for each in group["params"]]
        for packed in self._packed.values():
            packed.grad = None
            if (state := self._optimizer.state.pop(packed, None)) is not None:
                self._optimizer.state[self._whole[id(packed)]] = state


def _inside(values: torch.Tensor, bools: torch.Tensor) -> torch.Tensor:
    return torch.masked_select(local(values), bools)


def _pack_state(state: dict[str, Any], whole: torch.Tensor, inside: Inside) -> dict[str, Any]:
    """Return the state of the weights inside: as it is, or out of that of all weights, as other trainings leave it."""
    packed = dict(state)
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or name in _OF_THE_PARAMETER or _is_packed(name, value, inside):
            continue
        if value.shape != whole.shape:
            raise _of_another_mask(name, value, whole, inside)
        packed[name] = _inside(value, inside.bools())
    return packed


def whole_state(state: dict[str, Any], whole: torch.Tensor, inside: Inside) -> dict[str, Any]:
    """Return the state of all weights: as it is, or, zero outside, out of that of the weights inside.

    As a training leaves it that could keep that alone. Fused steps on a CPU do not look whether the shapes are equal.

    Raises:
        MaskMismatchError: it is neither.
    """
    expanded = dict(state)
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or name in _OF_THE_PARAMETER or value.shape == whole.shape:
            continue
        if not _is_packed(name, value, inside):
            raise _of_another_mask(name, value, whole, inside)
        expanded[name] = _expanded(value, inside)
    return expanded


def _of_another_mask(name: str, value: torch.Tensor, whole: torch.Tensor, inside: Inside) -> MaskMismatchError:
    return MaskMismatchError(
        f"the optimizer's state {name!r} has the shape {list(value.shape)} for a parameter of the shape "
        f"{list(whole.shape)} with {inside.ones} weights inside the mask: it is of a training with another "
        "mask. Resume with that mask, or from weights without the optimizer's state."
    )


def _expanded(value: torch.Tensor, inside: Inside) -> torch.Tensor:
    zeros = torch.zeros(inside.shape, dtype=value.dtype, device=value.device)
    return zeros.masked_scatter_(inside.bools(), value)


def _is_packed(name: str, value: torch.Tensor, inside: Inside) -> bool:
    of_weights = name not in _OF_THE_PARAMETER and not hasattr(value, "device_mesh")
    return of_weights and value.shape == (inside.ones,)


def _of_shard(state: dict[str, Any], whole: Any, inside: Inside) -> dict[str, Any]:
    """Return the packed state of a DTensor's shard as DTensors."""
    from torch.distributed.tensor import DTensor

    expanded = dict(state)
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and _is_packed(name, value, inside):
            expanded[name] = DTensor.from_local(
                _expanded(value, inside), whole.device_mesh, whole.placements, shape=whole.shape, stride=whole.stride()
            )
    return expanded
