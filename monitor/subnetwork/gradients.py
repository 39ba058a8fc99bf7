"""Gradients of the masked loss: those outside the mask are zero before anything is made of them.

As in arXiv 2505.11711, the gradient is m⊙∇L, but where the mask is 0 a gradient that is not finite becomes 0 too. It is
masked as soon as it is there, so that clipping, its norm, the search for overflows and what processes send each other
see nothing else.
"""

from __future__ import annotations

import torch
from torch.utils.hooks import RemovableHandle

from monitor.subnetwork.coverage import Inside, local


def mask_gradient_of(parameter: torch.Tensor, inside: Inside) -> RemovableHandle:
    """Mask every gradient that backward passes give a parameter, from now on."""
    if hasattr(parameter, "device_mesh"):
        # FSDP2 gives the shard its gradient itself, reduced, and no graph leads there.
        def after(parameter: torch.Tensor) -> None:
            zero_outside(parameter.grad, inside)

        registered: RemovableHandle = parameter.register_post_accumulate_grad_hook(after)  # type: ignore[no-untyped-call]
        return registered

    # Before it is accumulated: DeepSpeed takes the gradient away right after that. Not in place: it may have others.
    def before(gradient: torch.Tensor) -> torch.Tensor:
        return torch.where(inside.bools(), gradient, 0)

    handle: RemovableHandle = parameter.register_hook(before)  # type: ignore[no-untyped-call]
    return handle


def zero_outside(gradient: torch.Tensor | None, inside: Inside) -> None:
    """Make the gradient zero outside, in place."""
    if gradient is not None and not inside.is_everything:
        local(gradient).masked_fill_(~inside.bools(), 0)
