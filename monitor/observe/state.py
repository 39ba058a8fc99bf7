"""What an observer holds of each weight from one observation to the next: base, masks, previous weights, references."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from monitor.observe.base import weights as base_weights
from monitor.observe.base.mode import BaseMode, choose_base_mode, log_base_mode, warn_of_no_low_bytes
from monitor.observe.kernels.contract import Rules, Segment
from monitor.observe.kernels.low_byte import fits, previous_weights
from monitor.observe.masks.references import ReferenceMasks, zero_masks
from monitor.observe.ranks import Alone
from monitor.observe.weights.measured import MeasuredWeights

_BITS_PER_BYTE = 8

_Tensors = dict[str, torch.Tensor]


class MonitorState:
    """Base, masks and previous weights of what this process measures.

    Args:
        measured: what is measured.
        originals: parameter name → base weights of shape (count,), where they are now. It is emptied.
        source: where these are from, as UpdateObserver was given it.
        mode: how to keep them; None to choose.
        references: the reference masks.
        rules: how weights are compared.
        step_masks: whether to hold previous weights and touched masks.
        ranks: the processes that train together, which all must make this.

    Attributes:
        base_mode: how the base is kept.
        base: parameter name → base as contract.Segment wants it.
        masks: parameter name → words of the update mask.
        touched: parameter name → words of the touched mask; None without step masks.
        references: the reference masks.
    """

    def __init__(
        self,
        measured: Sequence[MeasuredWeights],
        originals: dict[str, torch.Tensor],
        source: nn.Module | Mapping[str, torch.Tensor] | None,
        mode: BaseMode | None,
        references: ReferenceMasks,
        *,
        rules: Rules,
        step_masks: bool,
        ranks: Alone,
    ) -> None:
        self._dtype = rules.visible_dtype
        self._ranks = ranks
        self.references = references
        self._step_masks = step_masks
        self.base = self._keep_base(measured, originals, source, mode)
        # Where one process has no memory for them, the others must not wait for its counts.
        self.masks, self._previous, self.touched = ranks.alike(lambda: self._begin(measured))

    def _begin(self, measured: Sequence[MeasuredWeights]) -> tuple[_Tensors, _Tensors | None, _Tensors | None]:
        if not self._step_masks:
            return zero_masks(measured), None, None
        return zero_masks(measured), self._current_visible(measured), zero_masks(measured)

    def _keep_base(
        self,
        measured: Sequence[MeasuredWeights],
        originals: dict[str, torch.Tensor],
        source: nn.Module | Mapping[str, torch.Tensor] | None,
        mode: BaseMode | None,
    ) -> base_weights.BaseWeights:
        held = {w.name for w in measured if source is None and w.original is not None}
        rest = [w for w in measured if w.name in originals and w.name not in held]
        if mode is None or not rest:
            shared = isinstance(source, nn.Module) and all(originals[w.name].device == w.source.device for w in rest)
            mode = self._choose_mode(rest, shared=shared) if rest else BaseMode.SHARED
        modes = {w.name: BaseMode.SHARED if w.name in held else mode for w in measured if w.name in originals}
        # One by one: with low bytes there is never more than one whole copy of a parameter.
        kept = self._ranks.alike(
            lambda: {
                w.name: base_weights.keep(originals.pop(w.name), w, modes[w.name], self._dtype)
                for w in measured
                if w.name in modes
            }
        )
        first = self._ranks.rank == 0
        if mode is BaseMode.LOW_BYTE and not self._has_low_bytes(kept.values()):
            mode = BaseMode.DEVICE
            if first:
                warn_of_no_low_bytes(self._dtype)
        there_anyway = base_weights.storages(source, measured)
        self._shared = {name for name, tensor in kept.items() if base_weights.storage(tensor) in there_anyway}
        if first:
            own = base_weights.total_bytes(tensor for name, tensor in kept.items() if name not in self._shared)
            log_base_mode(mode, own, sum(w.count for w in measured))
        self.base_mode = mode
        return base_weights.BaseWeights(kept, measured)

    def _choose_mode(self, measured: Sequence[MeasuredWeights], *, shared: bool) -> BaseMode:
        # Reference masks are there already.
        masks = 1 + int(self._step_masks)
        previous = (1 if fits(self._dtype) else self._dtype.itemsize) if self._step_masks else 0
        beside = masks / _BITS_PER_BYTE + previous
        return choose_base_mode(measured, self._dtype, self._ranks, shared=shared, beside=beside)

    def _has_low_bytes(self, kept: Iterable[torch.Tensor]) -> bool:
        here = sum(tensor.numel() for tensor in kept if tensor.dtype == torch.uint8)
        return int(self._ranks.sum(torch.tensor([here], device="cpu"))) > 0

    def _current_visible(self, measured: Iterable[MeasuredWeights]) -> dict[str, torch.Tensor]:
        return {weights.name: previous_weights(weights.live(), self._dtype) for weights in measured}

    def take_up(self, late: Sequence[MeasuredWeights], originals: Mapping[str, torch.Tensor], mode: BaseMode) -> None:
        """Hold the state of weights that are measured from now on, too."""
        self.base |= {w.name: base_weights.keep(originals[w.name], w, mode, self._dtype) for w in late}
        if mode is BaseMode.SHARED:
            # Of a module that the observer was given, where it is.
            self._shared |= {weights.name for weights in late}
        self.masks |= zero_masks(late)
        if self._previous is not None and self.touched is not None:
            self._previous |= self._current_visible(late)
            self.touched |= zero_masks(late)
        self.references.take_up(late)

    def segment(self, weights: MeasuredWeights, current: torch.Tensor) -> Segment:
        """Return what a kernel wants to know of one parameter whose weights are now `current`."""
        return Segment(
            current=current,
            base=self.base[weights.name],
            mask=self.masks[weights.name],
            previous=self._previous[weights.name] if self._previous else None,
            touched=self.touched[weights.name] if self.touched else None,
            references=self.references.of(weights.name),
        )

    def held_bytes(self) -> int:
        """Return the bytes that all of it takes, on whichever device; a base that is there anyway takes none."""
        own = {name: tensor for name, tensor in self.base.items() if name not in self._shared}
        held = [own, self.masks, self._previous or {}, self.touched or {}, *self.references.words.values()]
        return base_weights.total_bytes(tensor for tensors in held for tensor in tensors.values())
