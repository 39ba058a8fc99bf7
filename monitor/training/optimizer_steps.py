"""Tells when optimizers are about to write to weights: a loop of one's own says only when they have."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook


class OptimizerSteps:
    """Calls a method before each step of an optimizer of torch, whoever made it, until it is closed.

    Others write to weights unannounced: optimizers of other kinds, compiled ones, and those that step a copy of the
    weights. So `announces_all` tells whether every trained parameter has been announced since it was asked last.

    Args:
        before: the method, which does not raise. Its object is not kept alive.
    """

    def __init__(self, before: Callable[[], None]) -> None:
        self._announced: set[int] = set()
        self._handle = register_optimizer_step_pre_hook(_hook(weakref.ref(self), weakref.WeakMethod(before)))

    def close(self) -> None:
        """Tell no more."""
        self._handle.remove()

    def announces_all(self, model: nn.Module) -> bool:
        """Return whether optimizers have announced writing to all that trains of a model, since the last call."""
        announced, self._announced = self._announced, set()
        return bool(announced) and all(id(each) in announced for each in model.parameters() if each.requires_grad)

    def announces_any(self, model: nn.Module) -> bool:
        """Return whether optimizers have announced writing to anything of a model, since `announces_all` was called."""
        return any(id(each) in self._announced for each in model.parameters())

    def see(self, optimizer: Optimizer) -> None:
        """Remember what an optimizer writes to."""
        self._announced.update(id(each) for group in optimizer.param_groups for each in group["params"])


def _hook(steps: weakref.ref[OptimizerSteps], before: weakref.WeakMethod[Callable[[], None]]) -> Callable[..., None]:
    def about_to_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        # A compiled step is traced, and this must not break the graph.
        if torch.compiler.is_compiling():
            return
        seen, call = steps(), before()
        if seen is not None and call is not None:
            seen.see(optimizer)
            call()

    return about_to_step
