"""The base as it is kept during the training: a copy, the low bytes of one, or a tensor that is there anyway."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from monitor.observe.base.mode import BaseMode, choose_base_mode, log_base_mode, warn_of_no_low_bytes
from monitor.observe.base.weights import BaseWeights, GivenBase, find, local_weights
from monitor.observe.chunk_sizes import FINGERPRINT_ON_GPU, elements_on
from monitor.observe.criterion import visible
from monitor.observe.kernels.low_byte import low_bytes
from monitor.observe.ranks import Ranks
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.roster import Roster


class KeptBase:
    """The base of what this process measures, from one observation to the next.

    Args:
        found: the base where it is now. It is emptied.
        source: where it is from, as UpdateObserver was given it.
        roster: what is measured. All processes must make this.
        mode: how to keep it; None to choose by free memory.
        visible_dtype: dtype that weights are compared in.
        step_masks: whether there will be previous weights and touched masks, which take memory, too.

    Attributes:
        mode: how the base is kept.
    """

    def __init__(
        self,
        found: BaseWeights,
        source: GivenBase | None,
        roster: Roster,
        mode: BaseMode | None,
        visible_dtype: torch.dtype,
        *,
        step_masks: bool,
    ) -> None:
        self._dtype = visible_dtype
        measured, ranks = roster.measured, roster.ranks
        # A mode that was asked for is meant for all of the base.
        there = {w.name for w in measured if source is None and w.original is not None and mode is None}
        rest = [w for w in measured if w.name in found.stored and w.name not in there]
        if not rest:
            mode = BaseMode.SHARED
        elif mode is None:
            on_device = all(found.stored[w.name].device == w.source.device for w in rest)
            shared = isinstance(source, nn.Module) and on_device
            mode = choose_base_mode(rest, visible_dtype, ranks, shared=shared, step_masks=step_masks)
        stored = [(w, BaseMode.SHARED if w.name in there else mode) for w in measured if w.name in found.stored]
        # One by one: with low bytes there is never more than one whole copy of a parameter.
        kept = ranks.all_or_none(
            lambda: {w.name: _keep(found.stored.pop(w.name), w, how, visible_dtype) for w, how in stored}
        )
        first = ranks.rank == 0
        if mode is BaseMode.LOW_BYTE and not _has_low_bytes(kept.values(), ranks):
            mode = BaseMode.DEVICE
            if first:
                warn_of_no_low_bytes(visible_dtype)
        there_anyway = _storages(source, measured)
        self._own = {name for name, tensor in kept.items() if _storage(tensor) not in there_anyway}
        self._weights = BaseWeights(kept)
        self.mode = mode
        if first:
            log_base_mode(mode, self.own_bytes(), sum(w.count for w in measured))

    def of(self, weights: MeasuredWeights) -> torch.Tensor:
        """Return the base of these weights as contract.Segment wants it."""
        return self._weights.of(weights)

    def own_bytes(self) -> int:
        """Return the bytes that it takes, on whichever device; what is there anyway takes none."""
        return total_bytes(self._weights.stored[name] for name in self._own)

    @property
    def in_place(self) -> dict[str, torch.Tensor]:
        """What is there anyway and is used where it is, by parameter name."""
        stored = self._weights.stored
        return {name: tensor for name, tensor in stored.items() if name not in self._own and tensor.numel()}

    def take_up(self, late: Sequence[MeasuredWeights]) -> None:
        """Keep the base of parameters that train from now on, too: what they are now."""
        # Only what the base is read from at the start can be shared.
        mode = BaseMode.DEVICE if self.mode is BaseMode.SHARED else self.mode
        found = find(None, late)
        self._weights.stored.update({w.name: _keep(found.of(w), w, mode, self._dtype) for w in late})
        self._own.update(weights.name for weights in late)


def _has_low_bytes(kept: Iterable[torch.Tensor], ranks: Ranks) -> bool:
    here = sum(tensor.numel() for tensor in kept if tensor.dtype == torch.uint8)
    return int(ranks.sum(torch.tensor([here], device="cpu"))) > 0


def _keep(tensor: torch.Tensor, weights: MeasuredWeights, mode: BaseMode, visible_dtype: torch.dtype) -> torch.Tensor:
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
    """Look chunk by chunk: where memory is short, there is no room for another copy."""
    size = elements_on(weights.device, FINGERPRINT_ON_GPU)
    chunks = torch.split(weights, size) if weights.dtype != visible_dtype else ()
    return all(torch.equal(visible(chunk, visible_dtype).to(chunk.dtype), chunk) for chunk in chunks)


def _storage(tensor: torch.Tensor) -> int:
    """Return what names the memory that a tensor is in."""
    return tensor.untyped_storage().data_ptr()


def _storages(source: GivenBase | None, measured: Iterable[MeasuredWeights]) -> set[int]:
    """Return the memory of a module that is the base, and of what the model itself holds from before its adapters."""
    held = {_storage(weights.original) for weights in measured if weights.original is not None}
    return (
        held | {_storage(local_weights(tensor)) for tensor in source.parameters()}
        if isinstance(source, nn.Module)
        else held
    )


def total_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes that the tensors' elements take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
