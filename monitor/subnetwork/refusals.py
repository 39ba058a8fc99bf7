"""Models and optimizers whose weights cannot be kept at the base: refused in words, before anything trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from monitor.errors import ConfigurationError, UnsupportedModelError, name_some, shown
from monitor.observe.weights.adapters import has_adapters
from monitor.subnetwork.coverage import local

# Updates come within the backward pass, or from a wrapper that steps nothing itself.
_WITHIN_BACKWARD = ("Lomo", "AdaLomo", "LayerWiseDummyOptimizer")


def refuse_model(model: object) -> None:
    """Refuse a model whose weights outside a mask cannot be kept.

    Raises:
        ConfigurationError: it is no model.
        UnsupportedModelError: it holds its weights in such a way.
    """
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"model is {shown(model)}; expected the torch.nn.Module that trains.")
    if has_adapters(model):
        raise UnsupportedModelError(
            "the model has adapters (LoRA, PEFT): its matrices change as a whole, and no weight of them can be left "
            "out. Train a subnetwork without adapters."
        )
    named = list(model.named_parameters())
    if any(hasattr(parameter, "ds_tensor") for _, parameter in named):
        raise UnsupportedModelError("DeepSpeed ZeRO-3 partitions the model. Use ZeRO-1 or ZeRO-2, or FSDP2.")
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise UnsupportedModelError("FSDP1 hides the parameters in flat ones. Use FSDP2, DDP, ZeRO-1 or ZeRO-2.")
    trainable = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    if meta := [name for name, parameter in trainable if parameter.is_meta]:
        raise UnsupportedModelError(f"on the meta device, so without weights: {name_some(meta)}. Load them first.")
    # Weights that torchao quantised say that they are what they are dequantised to.
    if quantised := [name for name, p in trainable if type(p.data).__module__.startswith("torchao.")]:
        raise UnsupportedModelError(
            f"quantised weights that train: {name_some(quantised)}. One scale is shared by many of them, inside the "
            "mask and outside. Train a subnetwork of weights that are not quantised."
        )
    _refuse_shared_memory(trainable)
    if sparse := [name for name, module in model.named_modules() if getattr(module, "sparse", False) is True]:
        raise UnsupportedModelError(f"embeddings with sparse gradients: {name_some(sparse)}. Set sparse=False.")


def _refuse_shared_memory(trainable: list[tuple[str, nn.Parameter]]) -> None:
    names: dict[int, str] = {}
    for name, parameter in trainable:
        held = local(parameter)
        if held.numel() and (other := names.setdefault(held.data_ptr(), name)) != name:
            raise UnsupportedModelError(
                f"{other} and {name} are two parameters with the same memory, so that a step of one moves weights "
                "outside the other's mask. Tie them as one parameter."
            )


def stepped_by(optimizer: object) -> tuple[torch.optim.Optimizer, Any]:
    """Return the optimizer of torch that moves weights within what accelerate and DeepSpeed make of it.

    Returns:
        the optimizer, and DeepSpeed's around it, which gives it parts of its own in the places of the parameters; None
        where there is none.

    Raises:
        ConfigurationError: it is no optimizer of torch, or one that cannot be guarded.
        UnsupportedModelError: DeepSpeed holds the weights in a way that is not known here.
    """
    zero = None
    while (module := type(optimizer).__module__).startswith(("accelerate.", "deepspeed.runtime.")):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None:
            break
        if module.startswith("deepspeed.runtime."):
            zero = optimizer
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer) or not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise ConfigurationError(f"an optimizer is {shown(optimizer)}; expected a torch.optim.Optimizer.")
    kind = type(optimizer).__name__
    if kind in _WITHIN_BACKWARD:
        raise ConfigurationError(
            f"{kind} updates the weights within the backward pass. Expected an optimizer with a step of its own."
        )
    if callable(getattr(optimizer, "eval", None)) and callable(getattr(optimizer, "train", None)):
        raise ConfigurationError(
            f"{kind} has other weights in evaluation than in training (schedule-free): they leave the base outside the "
            "mask. Expected an optimizer without train() and eval()."
        )
    if zero is not None:
        _refuse_zero(zero)
    return optimizer, zero


def _refuse_zero(zero: Any) -> None:
    if getattr(zero, "cpu_offload", False) or getattr(zero, "zenflow", False):
        raise UnsupportedModelError(
            "DeepSpeed offloads the optimizer (offload_optimizer, ZenFlow), which steps it in a way that is not "
            "guarded here. Remove the offloading; the optimizer's state is partitioned among the processes anyway."
        )
    parameters = [p for groups in ("bit16_groups", "bf16_groups") for group in getattr(zero, groups, []) for p in group]
    if not parameters or not all(hasattr(parameter, "_hp_mapping") for parameter in parameters):
        raise UnsupportedModelError(
            f"DeepSpeed trains with {type(zero).__name__}, which does not tell where it keeps its copies of the "
            "weights. Set zero_optimization.stage to 1 or 2."
        )


def refuse_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse `optimizer.step(closure)`, which makes gradients within the step.

    Raises:
        ConfigurationError: there is a closure.
    """
    if any(map(callable, (*args, *kwargs.values()))):
        raise ConfigurationError(
            "optimizer.step was given a closure, which makes gradients after they were masked. Call backward() first, "
            "then step() without it."
        )
