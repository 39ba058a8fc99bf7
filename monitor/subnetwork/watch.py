"""Optimizers that were not given to the Subnetwork whose weights they step: a second one, or one that came later.

They would move weights outside the mask in silence.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from monitor.errors import ConfigurationError
from monitor.subnetwork.coverage import Coverage
from monitor.subnetwork.guarded import GuardedOptimizer


class _Watch:
    """The coverages in force, with the optimizers that may step what they cover."""

    def __init__(self) -> None:
        self._allowed: weakref.WeakKeyDictionary[Coverage, weakref.WeakSet[GuardedOptimizer]]
        self._allowed = weakref.WeakKeyDictionary()
        self._hook: RemovableHandle | None = None

    def begin(self, coverage: Coverage, optimizers: Iterable[GuardedOptimizer]) -> None:
        """Let nobody but these step what is covered, until `end` or until the coverage is gone."""
        if self._hook is None:
            # torch has no such hook of one tensor.
            self._hook = register_optimizer_step_pre_hook(torch.compiler.disable(self._refuse))  # type: ignore[no-untyped-call]
        self._allowed[coverage] = weakref.WeakSet(optimizers)

    def end(self, coverage: Coverage) -> None:
        """Let everybody step what was covered."""
        self._allowed.pop(coverage, None)
        if self._hook is not None and not self._allowed:
            self._hook.remove()
            self._hook = None

    def refuse_a_second(self, coverage: Coverage) -> None:
        """Refuse a mask for a model that has one.

        Raises:
            ConfigurationError: some of the parameters are covered.
        """
        if any(other.covers_any(coverage.trainable.values()) for other in self._allowed):
            raise ConfigurationError(
                "the model trains a subnetwork already; expected one mask. Intersect masks with `&`; or, when that "
                "training is over or has failed, close() its Subnetwork, or SubnetworkCallback, first."
            )

    def _refuse(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        for coverage, allowed in self._allowed.items():
            stepped = (p for group in optimizer.param_groups for p in group["params"])
            # One that steps others is guarded itself, and so are their steps within its own.
            may_step = any(each.optimizer is optimizer or each.is_stepping for each in allowed)
            if not may_step and coverage.covers_any(stepped):
                raise ConfigurationError(
                    f"{type(optimizer).__name__} steps weights of a model that trains a subnetwork, and was not given "
                    "to it: it would move weights outside the mask. Give Subnetwork(…) all optimizers; or, when that "
                    "training is over or has failed, close() it first."
                )


watch = _Watch()
