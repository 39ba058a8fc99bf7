"""The base θ₀: the frozen weights that updates are measured against, and the fingerprint that names them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from monitor.errors import BaseMismatchError, name_some
from monitor.observe.base.mode import BaseMode
from monitor.observe.criterion import visible
from monitor.observe.kernels.low_byte import low_bytes
from monitor.observe.ranks import Alone
from monitor.observe.weights.groups import clean_name
from monitor.observe.weights.measured import MeasuredWeights

# Weights that are looked at at a time: small enough that int64 intermediates stay in cache on a CPU.
_CHUNK_ON_CPU = 1 << 14
_CHUNK_ON_DEVICE = 1 << 22
# Multipliers of splitmix64, as signed 64-bit numbers.
_MIX = (-0x61C8864680B583EB, -0x4B47D0C5BC6DBC27)


class BaseWeights(dict[str, torch.Tensor]):
    """The base of each parameter. What the model holds quantised is dequantised whenever it is asked for."""

    def __init__(self, stored: Mapping[str, torch.Tensor], measured: Iterable[MeasuredWeights]) -> None:
        super().__init__(stored)
        self._measured = {weights.name: weights for weights in measured}

    def __missing__(self, name: str) -> torch.Tensor:
        weights = self._measured[name]
        if weights.dequantised is None:
            raise KeyError(name)
        return weights.of_whole(weights.dequantised() if weights.count else weights.source)


def find(
    source: nn.Module | Mapping[str, torch.Tensor] | None,
    measured: Iterable[MeasuredWeights],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, torch.Tensor]:
    """Return the base of `measured` where it is now, flattened, without a copy unless strides ask for one.

    Args:
        source: whole parameters, or sharded as the model is, under the model's names. None for the weights themselves,
            or, with adapters, for what the model holds from before them.
        measured: the weights whose base is wanted.
        shapes: parameter name → shape of the whole parameter.

    Raises:
        BaseMismatchError: a parameter is missing or has another shape, or a module is the model that trains.
    """
    if source is None:
        measured = list(measured)
        stored = {w.name: _held_by_model(w) for w in measured if w.dequantised is None}
        return BaseWeights(stored, measured)
    found = _named(source)
    _check_matches(found, shapes)
    base = {}
    for weights in measured:
        tensor = _same_weights(found[weights.name], weights)
        if isinstance(source, nn.Module) and weights.count and _is_live(tensor, weights):
            raise BaseMismatchError(
                f"the base shares the memory of {weights.name} with the model that trains, so nothing would ever "
                "differ. Give a frozen copy of the model or a state dict, or leave `base` out."
            )
        base[weights.name] = tensor
    return base


def differing(source: nn.Module | Mapping[str, torch.Tensor], measured: Sequence[MeasuredWeights]) -> torch.Tensor:
    """Return where the source has other weights than these, as int64 of shape (len(measured),): 1, or 0.

    0 is also for what the source does not have, or has in another shape.
    """
    found = _named(source)
    differs = [
        weights.name in found
        and tuple(found[weights.name].shape) == weights.shape
        and not _holds(_same_weights(found[weights.name], weights), weights)
        for weights in measured
    ]
    return torch.tensor(differs, device="cpu").to(torch.int64)


def _holds(tensor: torch.Tensor, weights: MeasuredWeights) -> bool:
    live = weights.live().reshape(-1)
    return torch.equal(tensor.to(live), live)


def _named(source: nn.Module | Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    given = dict(source.named_parameters(remove_duplicate=False)) if isinstance(source, nn.Module) else source
    return {clean_name(name): tensor.detach() for name, tensor in given.items()}


def _held_by_model(weights: MeasuredWeights) -> torch.Tensor:
    return weights.live().reshape(-1) if weights.original is None else weights.of_whole(weights.original)


def _is_live(tensor: torch.Tensor, weights: MeasuredWeights) -> bool:
    # What adapters start from may be the base of what they make.
    return weights.effective is None and tensor.data_ptr() == weights.live().data_ptr()


def keep(tensor: torch.Tensor, weights: MeasuredWeights, mode: BaseMode, visible_dtype: torch.dtype) -> torch.Tensor:
    """Return the base of one parameter as `mode` keeps it; see contract.Segment.

    A copy is in the visible dtype where that loses nothing, as for float32 masters loaded from a bfloat16 checkpoint:
    it takes half the memory, and compares the same. Only such a base can be kept as low bytes: with others, what moved
    below the visible dtype would not be seen.
    """
    device = weights.source.device
    if mode is BaseMode.SHARED:
        return tensor.to(device)
    here = tensor.to(device)
    lossless = _is_lossless(here, visible_dtype)
    if mode is BaseMode.LOW_BYTE and lossless:
        return low_bytes(here, visible_dtype)
    kept = visible(here, visible_dtype) if lossless else here
    if mode is BaseMode.HOST:
        return torch.empty(kept.shape, dtype=kept.dtype, device="cpu", pin_memory=torch.cuda.is_available()).copy_(kept)
    return kept.clone() if kept.data_ptr() == tensor.data_ptr() else kept


def _is_lossless(weights: torch.Tensor, visible_dtype: torch.dtype) -> bool:
    """Look piece by piece: where memory is short, there is no room for another copy."""
    parts = torch.split(weights, _chunk_on(weights.device)) if weights.dtype != visible_dtype else ()
    return all(torch.equal(visible(part, visible_dtype).to(part.dtype), part) for part in parts)


def _chunk_on(device: torch.device) -> int:
    return _CHUNK_ON_CPU if device.type == "cpu" else _CHUNK_ON_DEVICE


def _same_weights(tensor: torch.Tensor, weights: MeasuredWeights) -> torch.Tensor:
    """Return the weights of `tensor`, whole or sharded as the model is, that are measured here."""
    if isinstance(tensor, torch.Tensor) and hasattr(tensor, "to_local"):
        return weights.of_twin(tensor.to_local())
    return weights.of_whole(tensor)


def holds_the_same(candidate: nn.Module, model: nn.Module) -> bool:
    """Return whether `candidate` has every trainable parameter of `model`, whole or as a DTensor, with the same value.

    Never so under FSDP1 and ZeRO-3, which leave something else than the weights in the parameters' place.
    """
    found = {clean_name(name): tensor for name, tensor in candidate.named_parameters(remove_duplicate=False)}
    return not _hides_parameters(model) and all(
        (other := found.get(clean_name(name))) is not None
        and other.shape == parameter.shape
        and torch.equal(_local(other).to(_local(parameter)), _local(parameter))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    )


def _hides_parameters(model: nn.Module) -> bool:
    hidden_by_zero = any(hasattr(parameter, "ds_tensor") for parameter in model.parameters())
    return hidden_by_zero or any(hasattr(module, "_fsdp_wrapped_module") for module in model.modules())


def _local(tensor: torch.Tensor) -> torch.Tensor:
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


def fingerprint(
    base: Mapping[str, torch.Tensor], measured: Sequence[MeasuredWeights], visible_dtype: torch.dtype, ranks: Alone
) -> str:
    """Return 32 hexadecimal digits that name the visible base weights.

    Independent of the stored dtype, the device, the order of parameters, and of how they are spread over processes.
    """

    def here() -> torch.Tensor:
        sums = (weight_sums(visible(base[w.name].to(w.source.device), visible_dtype), w.indices) for w in measured)
        return torch.stack(list(sums))

    everywhere = ranks.sum_of(here).tolist()
    lines = [json.dumps([w.name, list(w.shape), *sums]) for w, sums in zip(measured, everywhere, strict=True)]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:32]


def weight_sums(weights: torch.Tensor, indices: Callable[[int, int], torch.Tensor]) -> torch.Tensor:
    """Return Σ bᵢ and Σ bᵢ·rᵢ modulo 2⁶⁴ as int64 of shape (2,), b the bit patterns of the weights.

    r is pseudo-random from the index of the weight in its parameter, `indices(first, last)`. The sums of parts add up
    to those of the whole.
    """
    bits = weights.reshape(-1).view(torch.int16 if weights.element_size() == 2 else torch.int32)
    sums = torch.zeros(2, dtype=torch.int64, device=bits.device)
    step = _chunk_on(bits.device)
    for start in range(0, bits.numel(), step):
        chunk = bits[start : start + step].to(torch.int64)
        mixed = chunk * _pseudo_random(indices(start, start + chunk.numel()))
        sums += torch.stack([chunk.sum(), mixed.sum()])
    return sums.cpu()


def _pseudo_random(index: torch.Tensor) -> torch.Tensor:
    index = (index + 1) * _MIX[0]
    index = (index ^ (index >> 31)) * _MIX[1]
    return index ^ (index >> 29)


def storage(tensor: torch.Tensor) -> int:
    """Return what names the memory that a tensor is in."""
    return tensor.untyped_storage().data_ptr()


def storages(source: nn.Module | Mapping[str, torch.Tensor] | None, measured: Iterable[MeasuredWeights]) -> set[int]:
    """Return the memory of a module that is the base, and of what the model itself holds from before its adapters."""
    held = {storage(weights.original) for weights in measured if weights.original is not None}
    return held | {storage(_local(tensor)) for tensor in source.parameters()} if isinstance(source, nn.Module) else held


def total_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes that the tensors' elements take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
