"""Optimizers that move weights whose gradient is zero, each in a way of its own, and how a step with a mask should be.

Their settings move every weight in every step: momentum, and weight decay of both kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

Make = Callable[[nn.Module], list[torch.optim.Optimizer]]

DECAY = 0.1


def of(kind: type[torch.optim.Optimizer], **settings: object) -> Make:
    return lambda model: [kind(model.parameters(), lr=0.01, weight_decay=DECAY, **settings)]


def muon(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon takes matrices only, so that there are two optimizers."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    return [
        torch.optim.Muon(matrices, lr=0.01, weight_decay=DECAY),
        torch.optim.AdamW(others, lr=0.01, weight_decay=DECAY),
    ]


PACKED: dict[str, Make] = {
    "sgd": of(torch.optim.SGD, momentum=0.9),
    "adamw": of(torch.optim.AdamW),
    "adamw-fused": of(torch.optim.AdamW, fused=True),
    "adamw-foreach": of(torch.optim.AdamW, foreach=True, amsgrad=True),
    "adam": of(torch.optim.Adam),
    "adadelta": of(torch.optim.Adadelta),
    "adagrad": of(torch.optim.Adagrad),
    "adamax": of(torch.optim.Adamax),
    "nadam": of(torch.optim.NAdam),
    "radam": of(torch.optim.RAdam),
    "rmsprop": of(torch.optim.RMSprop, momentum=0.9),
    "rprop": lambda model: [torch.optim.Rprop(model.parameters(), lr=0.01)],
}
RESTORED: dict[str, Make] = {
    "adafactor": of(torch.optim.Adafactor),
    "asgd": of(torch.optim.ASGD),
}
if hasattr(torch.optim, "Muon"):
    RESTORED["muon"] = muon
OPTIMIZERS = PACKED | RESTORED


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the whole weights."""
    whole = {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}
    return {name: (p.full_tensor() if hasattr(p, "full_tensor") else p).clone() for name, p in whole.items()}


def bits(weights: torch.Tensor) -> torch.Tensor:
    """What NaN, −0 and +0 are told apart by."""
    return weights.contiguous().view(torch.int16 if weights.element_size() == 2 else torch.int32)


def moved_outside(
    inside: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]
) -> list[str]:
    """The parameters with weights outside that are not what they were, bit for bit."""
    return [name for name, mask in inside.items() if (bits(before[name]) != bits(after[name]))[~mask].any()]


def share_moved_inside(
    inside: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]
) -> float:
    moved = sum(int((before[name] != after[name])[mask].sum()) for name, mask in inside.items())
    return moved / sum(int(mask.sum()) for mask in inside.values())


def step_by_hand(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    inside: Mapping[str, torch.Tensor],
    before: Mapping[str, torch.Tensor],
) -> None:
    """What a step should be, in other words: the gradient times the mask, a full step, and the base outside of it."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(inside[name])
    for optimizer in optimizers:
        optimizer.step()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter[~inside[name]] = before[name][~inside[name]]
