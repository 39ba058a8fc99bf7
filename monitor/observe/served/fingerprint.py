"""fingerprint: one number for each parameter, by which whoever serves weights is compared with whoever trains them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from monitor.errors import ConfigurationError, UnsupportedModelError, shown
from monitor.observe.criterion import dtype_name, parse_visible_dtype
from monitor.observe.served.slices import Slices, check_slices, cut
from monitor.observe.served.sums import sums, unsigned
from monitor.observe.settings import MeasurementSettings
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.names import by_clean_name

_WEIGHTS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def fingerprint(
    named_tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]],
    *,
    visible_dtype: str | torch.dtype = MeasurementSettings.visible_dtype,
    slices: Slices | None = None,
) -> dict[str, int]:
    """Return a 64-bit number for each parameter: the sum of a hash of the place and the bits of every weight.

    Equal weights have equal numbers, whatever the device and order. The numbers of shards add up, modulo 2⁶⁴, to that
    of the whole: `Watch.served` takes those of all tensor-parallel ranks. −0 and 0 are different, and so are two NaNs.

    >>> fingerprint({"model.norm.weight": torch.ones(2, dtype=torch.bfloat16)})
    {'model.norm.weight': 16199597376999121082}

    On a rank of vLLM, with the configuration of the model that it serves:

        slices = monitor.engine_slices(config, rank=rank, ranks=tensor_parallel_size)
        return monitor.fingerprint(model.named_parameters(), slices=slices)

    Args:
        named_tensors: (name, tensor) of each, as `named_parameters()` returns, or a state dict; of any shape, strides
            and device. Tensors are only read, a chunk at a time; what is not contiguous is copied, one at a time. Of a
            DTensor, this process's shard counts.
        visible_dtype: "bfloat16", "float16" or "float32", that floating-point weights are rounded to first, to nearest
            even: that of the run. Others are taken as they are.
        slices: pattern → the parameters that an engine's tensor of such a name holds, as `engine_slices` returns it.

    Returns:
        name without what wrappers add to it → number from 0 to 2⁶⁴ − 1.

    Raises:
        ConfigurationError: an argument cannot work, or a tensor has not the rows that `slices` says.
        UnsupportedModelError: a tensor has no weights here, is quantised, or two have one name.
    """
    dtype = parse_visible_dtype(visible_dtype)
    return numbers_of(parameters_in(named_tensors, slices), dtype)


def parameters_in(
    named_tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]], slices: Slices | None
) -> dict[str, MeasuredWeights]:
    """Return what tensors hold of the model's parameters, by name; raises what `fingerprint` raises."""
    table = check_slices(slices)
    tensors = by_clean_name(_pairs(named_tensors))
    _refuse_quantised(tensors)
    placed: dict[str, MeasuredWeights] = {}
    for name, tensor in tensors.items():
        for weights in _of_this_process(name, tensor) or cut(name, tensor, table):
            if placed.setdefault(weights.name, weights) is not weights:
                raise UnsupportedModelError(
                    f"{weights.name} is there twice, by its own name and as a part of {name}. Leave one of them out."
                )
    return placed


def numbers_of(placed: Mapping[str, MeasuredWeights], visible_dtype: torch.dtype) -> dict[str, int]:
    """Return the number of each."""
    with torch.no_grad():
        return dict(zip(placed, unsigned(sums(placed.values(), visible_dtype)), strict=True))


def _pairs(given: Any) -> Iterator[tuple[str, torch.Tensor]]:
    pairs = given.items() if isinstance(given, Mapping) else given
    if isinstance(pairs, torch.Tensor) or not isinstance(pairs, Iterable):
        raise _expected(given)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[1], torch.Tensor):
            raise _expected(pair)
        name, tensor = pair
        if tensor.is_meta:
            raise UnsupportedModelError(f"{name} is on the meta device, so without weights. Load them before.")
        yield name, tensor


def _expected(given: object) -> ConfigurationError:
    return ConfigurationError(
        f"fingerprint() was given {shown(given)}; expected pairs of name and tensor: model.named_parameters(), or a "
        "state dict."
    )


def _refuse_quantised(tensors: Mapping[str, torch.Tensor]) -> None:
    """Codes say nothing without their scales, and what the two make is never to the bit what was quantised."""
    for name, tensor in tensors.items():
        is_scaled = tensor.dtype not in _WEIGHTS and any(other.startswith(f"{name}_scale") for other in tensors)
        # bitsandbytes has the scales in the tensor, torchao makes a tensor of tensors.
        has_scales = any(getattr(tensor, held, None) is not None for held in ("quant_state", "SCB"))
        is_made = is_traceable_wrapper_subclass(tensor) and not hasattr(tensor, "device_mesh")
        if is_scaled or has_scales or is_made:
            raise UnsupportedModelError(
                f"{name} is quantised ({type(tensor).__name__} of {dtype_name(tensor.dtype)}), so that it is not what "
                "was trained, even where all is well. Whether an engine serves the trained weights can be told only "
                "of one that does not quantise them."
            )


def _of_this_process(name: str, tensor: Any) -> list[MeasuredWeights]:
    """Return this process's shard of a DTensor; nothing for another tensor."""
    if not hasattr(tensor, "device_mesh"):
        return []
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if any(placement.is_partial() for placement in tensor.placements):
        raise UnsupportedModelError(f"{name} is placed as {tensor.placements}. Expected shards or replicas.")
    sizes, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    local = tensor.to_local().detach()
    bounds = tuple((first, first + size) for first, size in zip(offsets, sizes, strict=True))
    return [
        MeasuredWeights(
            name=name, shape=tuple(tensor.shape), bounds=bounds, start=0, stop=local.numel(), held=lambda: local
        )
    ]
