"""What an observer holds of each weight from one observation to the next: base, masks, previous weights, references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

import torch

from monitor.observe.base.kept import KeptBase, total_bytes
from monitor.observe.kernels.contract import Rules, Segment
from monitor.observe.kernels.low_byte import previous_weights
from monitor.observe.masks.references import ReferenceMasks, zero_masks
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.roster import Roster


class MonitorState:
    """Base, masks and previous weights of what this process measures.

    Args:
        roster: what is measured. All processes must make this.
        base: the base of it.
        references: the reference masks.
        rules: how weights are compared.
        step_masks: whether to hold previous weights and touched masks.

    Attributes:
        base: the base.
        references: the reference masks.
        masks: parameter name → words of the update mask.
        touched: parameter name → words of the touched mask; None without step masks.
        held_bytes: bytes that all of it takes, on whichever device; a base that is there anyway takes none.
    """

    def __init__(
        self, roster: Roster, base: KeptBase, references: ReferenceMasks, rules: Rules, *, step_masks: bool
    ) -> None:
        self._dtype, self._ranks = rules.visible_dtype, roster.ranks
        self.base = base
        self.references = references
        self.masks: dict[str, torch.Tensor] = {}
        self.touched: dict[str, torch.Tensor] | None = {} if step_masks else None
        self._previous: dict[str, torch.Tensor] | None = {} if step_masks else None
        # Where one process has no memory for them, the others must not wait for its counts.
        self._ranks.all_or_none(lambda: self._begin(roster.measured))
        self.held_bytes = self._count_bytes()

    def _begin(self, measured: Sequence[MeasuredWeights]) -> None:
        self.masks |= zero_masks(measured)
        if self._previous is not None and self.touched is not None:
            self._previous |= {weights.name: previous_weights(weights.live(), self._dtype) for weights in measured}
            self.touched |= zero_masks(measured)

    def take_up(self, late: Sequence[MeasuredWeights]) -> None:
        """Hold the state of weights that train from now on, too: what they are now is their base. All must call it."""
        self._ranks.all_or_none(lambda: self._hold(late))
        self.references.take_up(late)
        self.held_bytes = self._count_bytes()

    def _hold(self, late: Sequence[MeasuredWeights]) -> None:
        self.base.take_up(late)
        self._begin(late)

    def aside(self, measured: Sequence[MeasuredWeights]) -> MonitorState:
        """Return what holds an update mask of its own against the same base, and no step masks."""
        beside = copy(self)
        beside.masks = zero_masks(measured)
        beside.touched = beside._previous = None
        return beside

    def restore_touched(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Take what differs from the base now for touched, and what was so when the touched masks were saved.

        Args:
            saved: parameter name → words of its mask; of those that are missing, no more is known.
        """
        for name, touched in (self.touched or {}).items():
            touched.copy_(self.masks[name])
            if name in saved:
                touched.bitwise_or_(saved[name].to(touched.device))

    def segment(self, weights: MeasuredWeights, current: torch.Tensor) -> Segment:
        """Return what a kernel wants to know of one parameter whose weights are now `current`."""
        return Segment(
            current=current,
            base=self.base.of(weights),
            mask=self.masks[weights.name],
            previous=None if self._previous is None else self._previous[weights.name],
            touched=None if self.touched is None else self.touched[weights.name],
            references=self.references.of(weights.name),
        )

    def _count_bytes(self) -> int:
        held = [self.masks, self._previous or {}, self.touched or {}, *self.references.words.values()]
        return self.base.own_bytes() + total_bytes(tensor for tensors in held for tensor in tensors.values())
