"""Reference masks of other runs, as far as they concern the weights that this process measures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch

from monitor.errors import name_some
from monitor.observe.kernels.contract import word_count
from monitor.observe.mask import check_covers
from monitor.observe.mask_file import MaskMetadata
from monitor.observe.measured import MeasuredWeights
from monitor.observe.ranks import Alone
from monitor.observe.words import count_ones

# Words that are counted at a time.
_PIECE = 1 << 20


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
        measured: what this process measures.
        frozen: what may start to train.
        base_fingerprint: of the base; a mask against another one is named in a warning.
        ranks: the processes that train together, which all must make this.

    Attributes:
        words: name → parameter name → int32 words of the part that this process measures, where the weights are.

    Raises:
        MaskMismatchError: a mask lacks a parameter, or has another shape.
        MaskFileError: a file is damaged.
    """

    def __init__(
        self,
        masks: Mapping[str, ReferenceMask],
        measured: Sequence[MeasuredWeights],
        frozen: Sequence[MeasuredWeights],
        base_fingerprint: str,
        ranks: Alone,
    ) -> None:
        self._masks = masks
        self._ranks = ranks
        shapes = {weights.name: weights.shape for weights in measured}
        for name, mask in masks.items():
            check_covers(mask.shapes, shapes, f"the model, as reference mask {name!r}")
            _warn_of_another_base(name, mask, shapes, base_fingerprint)
        self._frozen = {
            name: [weights.name for weights in frozen if mask.shapes.get(weights.name) == weights.shape]
            for name, mask in masks.items()
        }
        # Where one process cannot read a file, the others must not wait for its counts.
        self.words, ones_of_frozen = ranks.alike(lambda: (self._parts_of_all(measured), self._count_frozen()))
        self._ones_of_frozen = ranks.sum(ones_of_frozen).tolist()

    def _parts_of_all(self, measured: Sequence[MeasuredWeights]) -> dict[str, dict[str, torch.Tensor]]:
        return {name: _parts(mask, measured) for name, mask in self._masks.items()}

    def _count_frozen(self) -> torch.Tensor:
        """Count the ones of each mask in each frozen parameter, on the first process only: shape (pairs,), int64."""
        pairs = [(self._masks[name], parameter) for name, frozen in self._frozen.items() for parameter in frozen]
        ones = [_count(mask, parameter) if self._ranks.rank == 0 else 0 for mask, parameter in pairs]
        return torch.tensor(ones, dtype=torch.int64, device="cpu")

    def take_up(self, late: Sequence[MeasuredWeights]) -> None:
        """Cover parameters that have started to train, too.

        Raises:
            MaskFileError: a file is damaged.
        """
        for name, mask in self._masks.items():
            if uncovered := [weights.name for weights in late if weights.name not in self._frozen[name]]:
                warnings.warn(
                    f"reference mask {name!r} lacks {name_some(uncovered)}, which train now: it counts as empty there.",
                    stacklevel=9,
                )
            covered = [weights for weights in late if weights.name in self._frozen[name]]
            self.words[name] |= zero_masks(late) | _parts(mask, covered)

    def of(self, parameter: str) -> tuple[torch.Tensor, ...]:
        """Return the words of a parameter in each mask."""
        return tuple(words[parameter] for words in self.words.values())

    def count(self, measured: Sequence[MeasuredWeights]) -> dict[str, dict[str, int]]:
        """Return |R| of each mask per parameter, frozen ones included, over all processes, which all must call this.

        So it stays what it was when a frozen parameter starts to train.
        """
        counted: dict[str, dict[str, int]] = {}
        of_frozen = iter(self._ones_of_frozen)
        for name, words in self.words.items():
            here = torch.tensor([count_ones(words[w.name]) for w in measured], dtype=torch.int64, device="cpu")
            ones = self._ranks.sum(here).tolist()
            counted[name] = dict(zip(self._frozen[name], of_frozen, strict=False))
            counted[name] |= {w.name: count for w, count in zip(measured, ones, strict=True)}
        return counted


def zero_masks(measured: Sequence[MeasuredWeights]) -> dict[str, torch.Tensor]:
    """Return a mask of nothing, where the weights are: parameter name → int32 words."""
    return {w.name: torch.zeros(word_count(w.count), dtype=torch.int32, device=w.source.device) for w in measured}


def _parts(mask: ReferenceMask, measured: Iterable[MeasuredWeights]) -> dict[str, torch.Tensor]:
    return {w.name: w.words_of_whole(partial(mask.read, w.name)).to(w.source.device) for w in measured}


def _count(mask: ReferenceMask, parameter: str) -> int:
    total = word_count(math.prod(mask.shapes[parameter]))
    return sum(count_ones(mask.read(parameter, first, first + _PIECE)) for first in range(0, total, _PIECE))


def _warn_of_another_base(
    name: str, mask: ReferenceMask, shapes: Mapping[str, tuple[int, ...]], base_fingerprint: str
) -> None:
    base_of_mask = mask.metadata.base_fingerprint
    # A mask of more parameters, such as of full fine-tuning where adapters train now, has another fingerprint.
    comparable = bool(base_of_mask) and set(mask.shapes) == set(shapes)
    if comparable and base_of_mask != base_fingerprint:
        warnings.warn(
            f"reference mask {name!r} was taken against another base (fingerprint {base_of_mask}, here "
            f"{base_fingerprint}): the overlap compares updates of different starting weights.",
            stacklevel=5,
        )
