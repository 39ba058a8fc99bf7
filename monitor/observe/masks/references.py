"""Reference masks, of other runs and structural, as far as they concern the weights that this process measures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol, cast

import torch

from monitor.errors import ConfigurationError, MaskMismatchError, name_some, shown
from monitor.observe.base.weights import BaseWeights, find
from monitor.observe.bits import count_ones, word_count
from monitor.observe.chunk_sizes import WORDS_OF_A_FILE
from monitor.observe.masks.file import MaskMetadata
from monitor.observe.masks.mask import check_covers
from monitor.observe.masks.structural import StructuralMask, structural_words
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


def check_references(given: object) -> dict[str, ReferenceMask | StructuralMask]:
    """Return reference masks by name, those that are written as text as the structural ones that they stand for.

    Raises:
        ConfigurationError: they have no names, or one is no mask.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"references is {shown(given)}; expected {{name: UpdateMask or MaskFile}}.")
    return {_check_name(name): _check_mask(name, mask) for name, mask in given.items()}


def _check_name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"references has the name {shown(name)}; expected text that is not empty.")
    return name


def _check_mask(name: str, mask: object) -> ReferenceMask | StructuralMask:
    structural = StructuralMask.parse(mask) if isinstance(mask, str) else mask
    if isinstance(structural, StructuralMask):
        return structural
    if not hasattr(mask, "read") or not hasattr(mask, "shapes"):
        raise ConfigurationError(
            f"references[{name!r}] is {shown(mask)}; expected an UpdateMask, MaskFile(path) of a saved one, or "
            'a structural mask such as "lowest:0.1".'
        )
    return cast(ReferenceMask, mask)


class ReferenceMasks:
    """The words of each reference mask, beside the weights.

    Args:
        masks: name → mask. One of another run must cover every measured parameter; of one on disk, only what this
            process measures is kept, and what may start to train is read when it does.
        roster: what this process measures, and what may start to train. All processes must make this.
        base: the base of what is measured, of which structural masks are made.
        base_fingerprint: of the base; a mask against another one is named in a warning.
        visible_dtype: dtype in which weights are compared.

    Attributes:
        words: name → parameter name → int32 words of the shard that this process measures, where the weights are.
        ones: name → parameter name → |R| in the whole parameter, measured or frozen. It stays what it is when a frozen
            one starts to train.

    Raises:
        ConfigurationError: the processes have masks of other names, or other structural ones.
        MaskMismatchError: a mask lacks a parameter, or has another shape.
        MaskFileError: a file is damaged.
    """

    def __init__(
        self,
        masks: Mapping[str, ReferenceMask | StructuralMask],
        roster: Roster,
        base: BaseWeights,
        base_fingerprint: str,
        visible_dtype: torch.dtype,
    ) -> None:
        self._masks = {name: mask for name, mask in masks.items() if not isinstance(mask, StructuralMask)}
        self._structural = {name: mask for name, mask in masks.items() if isinstance(mask, StructuralMask)}
        self._ranks, self._dtype = roster.ranks, visible_dtype
        names = [f"{name}={mask}" if name in self._structural else name for name, mask in masks.items()]
        if not roster.ranks.all_have(names):
            raise ConfigurationError(
                f"references are {names} here; expected the same names in the same order in every process."
            )
        # Where one process has another mask, or cannot read its file, the others must not wait for its counts.
        words = roster.ranks.all_or_none(lambda: self._read(roster, base_fingerprint))
        words |= self._make(roster.measured, base)
        self.words = {name: words[name] for name in masks}
        ones = self._count(roster)
        self.ones = {name: ones[name] for name in masks}

    def _read(self, roster: Roster, base_fingerprint: str) -> dict[str, dict[str, torch.Tensor]]:
        """Check the masks of other runs, and read of them what is measured here."""
        shapes = {weights.name: weights.shape for weights in roster.selected}
        words = {}
        for name, mask in self._masks.items():
            check_covers(mask.shapes, shapes, f"the model, as reference mask {name!r}")
            _warn_of_another_base(name, mask, shapes, base_fingerprint)
            words[name] = _shards(name, mask, roster.selected) | _shards_of_late(name, mask, roster.late)
        return words

    def _make(self, measured: Sequence[MeasuredWeights], base: BaseWeights) -> dict[str, dict[str, torch.Tensor]]:
        """Make of the structural masks what is measured here. All processes must call it."""
        return {
            name: structural_words(mask, measured, base, self._dtype, self._ranks)
            for name, mask in self._structural.items()
        }

    def _count(self, roster: Roster) -> dict[str, dict[str, int]]:
        """Return |R| in each parameter, measured or frozen. All processes must call it."""
        known = [*roster.measured, *roster.frozen]
        ones = roster.ranks.sum_of(lambda: self._count_here(roster)).tolist()
        names = [weights.name for weights in known]
        counted = {name: dict(zip(names, each, strict=True)) for name, each in zip(self._masks, ones, strict=True)}
        return counted | {
            name: {weights.name: mask.ones(math.prod(weights.shape)) for weights in known}
            for name, mask in self._structural.items()
        }

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
        """Cover parameters that have started to train, too: structural masks from what they are now.

        A mask of another run that lacks some is named in a warning. All processes must call it.

        Raises:
            MaskFileError: a file is damaged.
        """
        read = self._ranks.all_or_none(
            lambda: {name: _shards_of_late(name, mask, late) for name, mask in self._masks.items()}
        )
        made = self._make(late, self._ranks.all_or_none(lambda: find(None, late))) if self._structural else {}
        for name, words in (read | made).items():
            self.words[name] |= words

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
