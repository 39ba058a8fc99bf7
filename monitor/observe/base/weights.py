"""The base θ₀: where the frozen weights are that updates are measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from monitor.errors import BaseMismatchError, name_some
from monitor.observe.ranks import Ranks
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.names import by_clean_name, clean_name

# A reference model or a state dict, under the names of the model that trains.
GivenBase: TypeAlias = nn.Module | Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class BaseWeights:
    """The base of each parameter: stored, or where the model holds it quantised, dequantised at each call.

    Attributes:
        stored: parameter name → base, as contract.Segment wants it, of those that are stored.
    """

    stored: dict[str, torch.Tensor]

    def of(self, weights: MeasuredWeights) -> torch.Tensor:
        """Return the base of these weights.

        Raises:
            KeyError: it is neither stored nor held by the model.
        """
        if weights.name not in self.stored and weights.dequantised is not None:
            return weights.of_whole(weights.dequantised() if weights.count else weights.source)
        return self.stored[weights.name]


def find(source: GivenBase | None, measured: Sequence[MeasuredWeights]) -> BaseWeights:
    """Return the base of `measured` where it is now, flattened, without a copy unless strides ask for one.

    Args:
        source: whole parameters, or sharded as the model is, under the model's names. None for the weights themselves,
            or, with adapters, for what the model holds from before them.
        measured: the weights whose base is wanted.

    Raises:
        BaseMismatchError: a parameter is missing or has another shape, or a module is the model that trains.
        UnsupportedModelError: two of the source have the same clean name.
    """
    if source is None:
        return BaseWeights({w.name: _held_by_model(w) for w in measured if w.dequantised is None})
    found = _named(source)
    _check_matches(found, {weights.name: weights.shape for weights in measured})
    base = {}
    for weights in measured:
        tensor = _same_weights(found[weights.name], weights)
        if isinstance(source, nn.Module) and weights.count and _is_live(tensor, weights):
            raise BaseMismatchError(
                f"the base shares the memory of {weights.name} with the model that trains, so nothing would ever "
                "differ. Give a frozen copy of the model or a state dict, or leave `base` out."
            )
        base[weights.name] = tensor
    return BaseWeights(base)


def differing(source: GivenBase, candidates: Sequence[MeasuredWeights], ranks: Ranks) -> list[str]:
    """Return the names of the parameters of which the source has other weights, on any of the processes.

    What the source does not have, or has in another shape, does not differ. All processes must call this.
    """
    differs = ranks.sum_of(lambda: _differs_here(source, candidates)).tolist()
    return [weights.name for weights, somewhere in zip(candidates, differs, strict=True) if somewhere]


def _differs_here(source: GivenBase, candidates: Sequence[MeasuredWeights]) -> torch.Tensor:
    found = _named(source)
    differs = [
        weights.name in found
        and tuple(found[weights.name].shape) == weights.shape
        and not _holds(_same_weights(found[weights.name], weights), weights)
        for weights in candidates
    ]
    return torch.tensor(differs, device="cpu").to(torch.int64)


def _holds(tensor: torch.Tensor, weights: MeasuredWeights) -> bool:
    live = weights.live().reshape(-1)
    return torch.equal(tensor.to(live), live)


def _named(source: GivenBase) -> dict[str, torch.Tensor]:
    given = dict(source.named_parameters(remove_duplicate=False)) if isinstance(source, nn.Module) else source
    return {name: tensor.detach() for name, tensor in by_clean_name(given.items()).items()}


def _held_by_model(weights: MeasuredWeights) -> torch.Tensor:
    return weights.live().reshape(-1) if weights.original is None else weights.of_whole(weights.original)


def _is_live(tensor: torch.Tensor, weights: MeasuredWeights) -> bool:
    # What adapters start from may be the base of what they make.
    return weights.effective is None and tensor.data_ptr() == weights.live().data_ptr()


def _same_weights(tensor: torch.Tensor, weights: MeasuredWeights) -> torch.Tensor:
    """Return the weights of `tensor`, whole or sharded as the model is, that are measured here."""
    if isinstance(tensor, torch.Tensor) and hasattr(tensor, "to_local"):
        return weights.of_twin(tensor.to_local())
    return weights.of_whole(tensor)


def holds_the_same(candidate: nn.Module, model: nn.Module) -> bool:
    """Return whether `candidate` has every trainable parameter of `model`, whole or as a DTensor, with the same value.

    Never so under FSDP1 and ZeRO-3, which leave something else than the weights in the parameters' place.
    """
    found = by_clean_name(candidate.named_parameters(remove_duplicate=False))
    return not _hides_parameters(model) and all(
        (other := found.get(clean_name(name))) is not None
        and other.shape == parameter.shape
        and torch.equal(local_weights(other).to(local_weights(parameter)), local_weights(parameter))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    )


def _hides_parameters(model: nn.Module) -> bool:
    hidden_by_zero = any(hasattr(parameter, "ds_tensor") for parameter in model.parameters())
    return hidden_by_zero or any(hasattr(module, "_fsdp_wrapped_module") for module in model.modules())


def local_weights(tensor: torch.Tensor) -> torch.Tensor:
    """Return the weights of a parameter that this process has: all, or those of a DTensor's shard."""
    local: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.detach()


def _check_matches(found: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    missing = [name for name in shapes if name not in found]
    different = [
        f"{name} {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    not_float = [name for name in shapes if name in found and not found[name].is_floating_point()]
    problems = (("missing", missing), ("other shape", different), ("not floating point", not_float))
    if any(names for _, names in problems):
        listing = "; ".join(f"{problem}: {name_some(names)}" for problem, names in problems if names)
        raise BaseMismatchError(
            f"the base does not match the model ({listing}). Expected the weights that this training started from, "
            "under the model's own parameter names. Where these are written nowhere, as a random head or resized "
            "embeddings, save the model before its first step with save_pretrained, and give that directory as `base`."
        )
