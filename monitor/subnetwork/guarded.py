"""An optimizer whose steps are guarded: hooks of torch's run just before and just after each of them.

A step that is skipped, as by a GradScaler that found an overflow, runs none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from monitor.errors import ConfigurationError
from monitor.subnetwork.coverage import Coverage
from monitor.subnetwork.packed import PackedStep, moves_each_weight_by_itself
from monitor.subnetwork.refusals import refuse_closure, stepped_by
from monitor.subnetwork.restored import RestoredStep


class GuardedOptimizer:
    """Keeps the weights outside the mask where they are in every step of an optimizer, until it is released.

    Args:
        given: the optimizer, or what accelerate or DeepSpeed make of it.
        coverage: what is inside the mask.

    Attributes:
        optimizer: the optimizer of torch that moves the weights.
        step: how that is done.
        steps: number of steps since.
        is_stepping: a step is under way in which it may step other optimizers.

    Raises:
        ConfigurationError: it cannot be guarded, or has tensors that are not of the model.
        UnsupportedModelError: DeepSpeed holds the weights in a way that is not known here.
    """

    def __init__(self, given: object, coverage: Coverage) -> None:
        self.optimizer, self._zero = stepped_by(given)
        if self._zero is not None:
            for group, settings in enumerate(self.optimizer.param_groups):
                for partition in settings["params"]:
                    coverage.add_partition(partition, group)
        self._check_known(coverage)
        self.step = self._choose(coverage)
        self.steps = 0
        self.is_stepping = False
        # torch.compile leaves them as they are, and compiles the step between.
        disable: Callable[[Any], Any] = torch.compiler.disable
        self._hooks = [
            self.optimizer.register_step_pre_hook(disable(self._before)),
            self.optimizer.register_step_post_hook(disable(self._after)),
        ]
        if isinstance(self.step, PackedStep):
            of_shards = self.step.state_dict_of_shards
            self._hooks.append(self.optimizer.register_state_dict_post_hook(lambda _, found: of_shards(found)))

    def _check_known(self, coverage: Coverage) -> None:
        unknown = [p for group in self.optimizer.param_groups for p in group["params"] if not coverage.has(p)]
        if unknown:
            raise ConfigurationError(
                f"{type(self.optimizer).__name__} steps {len(unknown)} tensors that the model does not have, the first "
                f"of shape {list(unknown[0].shape)}. Give the model that holds all of them, as it was when the "
                "optimizer was made, and before an evaluation under FSDP2."
            )

    def _choose(self, coverage: Coverage) -> PackedStep | RestoredStep:
        return RestoredStep(self.optimizer, coverage) if self.why_not_packed else PackedStep(self.optimizer, coverage)

    def described(self) -> str:
        """Say of which weights it keeps state."""
        kind = type(self.optimizer).__name__
        return f"{kind} keeps state of {f'all, because {why}' if (why := self.why_not_packed) else 'these only'}"

    @property
    def why_not_packed(self) -> str:
        """Why it keeps state of weights outside the mask, too; empty if it does not."""
        groups = self.optimizer.param_groups
        if not moves_each_weight_by_itself(self.optimizer):
            return "it is not known to move each weight by itself"
        if self._zero is not None:
            return "checkpoints of DeepSpeed hold that of whole partitions"
        if any(
            p.device.type == "cpu" and (g.get("fused") or p.element_size() < 4) for g in groups for p in g["params"]
        ):
            # What is left over at the end of a tensor goes through another loop of torch's, with other roundings.
            return "on a CPU a fused or 16-bit step rounds by a weight's place"
        return ""

    def _before(self, optimizer: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        refuse_closure(args[1:], kwargs)
        with torch.no_grad():
            self.step.before()
        # After one that raises, no hook runs: of those that step no others, nobody else is let in by it.
        self.is_stepping = not moves_each_weight_by_itself(self.optimizer)

    def _after(self, optimizer: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.is_stepping = False
        with torch.no_grad():
            self.step.after()
        self.steps += 1

    def release(self) -> None:
        """Let the optimizer go on without the mask, also after a step that raised."""
        with torch.no_grad():
            self.step.undo()
        for hook in self._hooks:
            hook.remove()
