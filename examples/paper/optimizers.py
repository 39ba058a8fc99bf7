"""The optimizers of the experiments, without weight decay, as TRL's trainers have it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from paper.experiments import OptimizerName


def make_optimizer(name: OptimizerName, model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    weights = list(model.parameters())
    if name == "sgd":
        return torch.optim.SGD(weights, learning_rate)
    if name == "muon":
        return MuonBesideAdamW(model, learning_rate)
    return _adamw(weights, learning_rate)


def _adamw(weights: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    # Fused: it rounds to bfloat16 once in a step, where the others round several times.
    return torch.optim.AdamW(weights, learning_rate, weight_decay=0.0, fused=True)


class MuonBesideAdamW(torch.optim.Optimizer):
    """Muon for the matrices, and AdamW for embeddings, norms and biases, as is usual.

    Muon's update is scaled to the size of AdamW's (arXiv 2502.16982), so that one learning rate suits both.
    """

    def __init__(self, model: nn.Module, learning_rate: float) -> None:
        embedded = {
            id(weights)
            for module in model.modules()
            if isinstance(module, nn.Embedding)
            for weights in module.parameters()
        }
        matrices = [weights for weights in model.parameters() if weights.ndim == 2 and id(weights) not in embedded]
        chosen = {id(weights) for weights in matrices}
        others = [weights for weights in model.parameters() if id(weights) not in chosen]
        muon = torch.optim.Muon(matrices, learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        self._parts = (muon, _adamw(others, learning_rate))
        super().__init__([{"params": matrices}, {"params": others}], {"lr": learning_rate})
        # The same groups, so that a learning rate that a schedule sets here is set there.
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step of both."""
        loss = closure() if closure else None
        for part in self._parts:
            part.step()
        return loss
