"""Reference masks of other runs, as far as they concern the weights that this process measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import torch

from monitor.errors import ConfigurationError, MaskMismatchError, name_some
from monitor.observe.bits import count_ones, word_count
from monitor.observe.chunk_sizes import WORDS_OF_A_FILE
from monitor.observe.masks.file import MaskMetadata
from monitor.observe.masks.mask import check_covers
from monitor.observe.user_warning import warn_user
from monitor.observe.weights.measured import MeasuredWeights
from monitor.observe.weights.roster import Roster


class ReferenceMask(Protocol):
    """What an UpdateMask has in memory, and a MaskFile on disk."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Parameter name → shape of the parameter."""

    @property
    def metadata(self) -> MaskMetadata:
        """Where the mask comes from."""

    def read(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Return the words of a parameter from `first` up to `last`, int32."""


class ReferenceMasks:
    """The words of each reference mask, beside the weights.

    Args:
        masks: name → mask; it must cover every measured parameter. Of one on disk, only what this process measures is
            kept, and what may start to train is read when it does.
        roster: what this process measures, and what may start to train. All processes must make this.
        base_fingerprint: of the base; a mask against another one is named in a warning.

    Attributes:
        words: name → parameter name → int32 words of the shard that this process measures, where the weights are.
        ones: name → parameter name → |R| in the whole parameter, measured or frozen. It stays what it is when a frozen
            one starts to train.

    Raises:
        ConfigurationError: the processes have masks of other names.
        MaskMismatchError: a mask lacks a parameter, or has another shape.
        MaskFileError: a file is damaged.
    """

    def __init__(self, masks: Mapping[str, ReferenceMask], roster: Roster, base_fingerprint: str) -> None:
        self._masks = masks
        if not roster.ranks.all_have(list(masks)):
            raise ConfigurationError(
                f"references are {list(masks)} here; expected the same names in the same order in every process."
            )
        # Where one process has another mask, or cannot read its file, the others must not wait for its counts.
        self.words = roster.ranks.all_or_none(lambda: self._read(roster, base_fingerprint))
        ones = roster.ranks.sum_of(lambda: self._count_here(roster)).tolist()
        names = [weights.name for weights in (*roster.measured, *roster.frozen)]
        self.ones = {name: dict(zip(names, counted, strict=True)) for name, counted in zip(masks, ones, strict=True)}

    def _read(self, roster: Roster, base_fingerprint: str) -> dict[str, dict[str, torch.Tensor]]:
        """Check the masks, and read of them what is measured here."""
        shapes = {weights.name: weights.shape for weights in roster.selected}
        words = {}
        for name, mask in self._masks.items():
            check_covers(mask.shapes, shapes, f"the model, as reference mask {name!r}")
            _warn_of_another_base(name, mask, shapes, base_fingerprint)
            words[name] = _shards(name, mask, roster.selected) | _shards_of_late(name, mask, roster.late)
        return words

    def _count_here(self, roster: Roster) -> torch.Tensor:
        """Return what is to be added up to the ones of each mask in each measured, then in each frozen parameter."""
        # Whole masks of frozen parameters are counted by the first process alone.
        frozen = [(weights, roster.ranks.rank == 0) for weights in roster.frozen]
        ones = [
            [count_ones(self.words[name][weights.name]) for weights in roster.measured]
            + [_count(mask, weights.name) if here and _covers(mask, weights) else 0 for weights, here in frozen]
            for name, mask in self._masks.items()
        ]
        return torch.tensor(ones, dtype=torch.int64, device="cpu")

    def take_up(self, late: Sequence[MeasuredWeights]) -> None:
        """Cover parameters that have started to train, too. A mask that lacks some is named in a warning.

        Raises:
            MaskFileError: a file is damaged.
        """
        for name, mask in self._masks.items():
            self.words[name] |= _shards_of_late(name, mask, late)

    def of(self, parameter: str) -> tuple[torch.Tensor, ...]:
        """Return the words of a parameter in each mask."""
        return tuple(words[parameter] for words in self.words.values())


def zero_masks(measured: Sequence[MeasuredWeights]) -> dict[str, torch.Tensor]:
    """Return a mask of nothing, where the weights are: parameter name → int32 words."""
    return {w.name: torch.zeros(word_count(w.count), dtype=torch.int32, device=w.source.device) for w in measured}


def _shards_of_late(name: str, mask: ReferenceMask, late: Sequence[MeasuredWeights]) -> dict[str, torch.Tensor]:
    if uncovered := [weights.name for weights in late if not _covers(mask, weights)]:
        warn_user(f"reference mask {name!r} lacks {name_some(uncovered)}, which train now: it counts as empty there.")
    return zero_masks(late) | _shards(name, mask, [weights for weights in late if _covers(mask, weights)])


def _shards(name: str, mask: ReferenceMask, measured: Sequence[MeasuredWeights]) -> dict[str, torch.Tensor]:
    shards = {w.name: w.words_of_whole(partial(mask.read, w.name)).to(w.source.device) for w in measured}
    for weights in measured:
        words = shards[weights.name]
        # Kernels read as many as the mask of the weights has, whatever is there.
        if words.dtype != torch.int32 or words.shape != (word_count(weights.count),):
            raise MaskMismatchError(
                f"reference mask {name!r} has words of {words.dtype} and shape {list(words.shape)} for {weights.name}; "
                f"expected int32 of shape {[word_count(weights.count)]}. Make masks with UpdateMask.from_bools."
            )
    return shards


def _covers(mask: ReferenceMask, weights: MeasuredWeights) -> bool:
    return mask.shapes.get(weights.name) == weights.shape


def _count(mask: ReferenceMask, parameter: str) -> int:
    total = word_count(math.prod(mask.shapes[parameter]))
    return sum(
        count_ones(mask.read(parameter, first, first + WORDS_OF_A_FILE)) for first in range(0, total, WORDS_OF_A_FILE)
    )


def _warn_of_another_base(
    name: str, mask: ReferenceMask, shapes: Mapping[str, tuple[int, ...]], base_fingerprint: str
) -> None:
    base_of_mask = mask.metadata.base_fingerprint
    # A mask of more parameters, such as of full fine-tuning where adapters train now, has another fingerprint.
    comparable = bool(base_of_mask) and set(mask.shapes) == set(shapes)
    if comparable and base_of_mask != base_fingerprint:
        warn_user(
            f"reference mask {name!r} was taken against another base (fingerprint {base_of_mask}, here "
            f"{base_fingerprint}): the overlap compares updates of different starting weights."
        )
