"""Reference masks of other runs, as far as they concern the weights that this process measures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import torch

from monitor.errors import ConfigurationError, MaskMismatchError, name_some
from monitor.observe.bits import count_ones
from monitor.observe.kernels.contract import word_count
from monitor.observe.masks.file import MaskMetadata
from monitor.observe.masks.mask import check_covers
from monitor.observe.ranks import Alone
from monitor.observe.weights.measured import MeasuredWeights

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
        ConfigurationError: the processes have masks of other names.
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
        if not ranks.all_have(list(masks)):
            raise ConfigurationError(
                f"references are {list(masks)} here; expected the same names in the same order in every process."
            )
        self._frozen = [weights.name for weights in frozen]
        self.words: dict[str, dict[str, torch.Tensor]] = {}
        # Where one process has another mask, or cannot read its file, the others must not wait for its counts.
        ones = ranks.sum_of(lambda: self._read(measured, frozen, base_fingerprint))
        self._ones_of_frozen = dict(zip(masks, ones.tolist(), strict=True))

    def _read(
        self, measured: Sequence[MeasuredWeights], frozen: Sequence[MeasuredWeights], base_fingerprint: str
    ) -> torch.Tensor:
        """Check the masks, and read of them what is measured here.

        Returns:
            the ones of each mask in each frozen parameter, shape (masks, frozen), int64; counted by the first process,
            0 on the others.
        """
        shapes = {weights.name: weights.shape for weights in measured}
        ones = torch.zeros(len(self._masks), len(frozen), dtype=torch.int64, device="cpu")
        for i, (name, mask) in enumerate(self._masks.items()):
            check_covers(mask.shapes, shapes, f"the model, as reference mask {name!r}")
            _warn_of_another_base(name, mask, shapes, base_fingerprint)
            self.words[name] = _parts(name, mask, measured)
            for j, weights in enumerate(frozen if self._ranks.rank == 0 else ()):
                ones[i, j] = _count(mask, weights.name) if _covers(mask, weights) else 0
        return ones

    def take_up(self, late: Sequence[MeasuredWeights]) -> None:
        """Cover parameters that have started to train, too.

        Raises:
            MaskFileError: a file is damaged.
        """
        for name, mask in self._masks.items():
            if uncovered := [weights.name for weights in late if not _covers(mask, weights)]:
                warnings.warn(
                    f"reference mask {name!r} lacks {name_some(uncovered)}, which train now: it counts as empty there.",
                    stacklevel=8,
                )
            covered = [weights for weights in late if _covers(mask, weights)]
            self.words[name] |= zero_masks(late) | _parts(name, mask, covered)

    def of(self, parameter: str) -> tuple[torch.Tensor, ...]:
        """Return the words of a parameter in each mask."""
        return tuple(words[parameter] for words in self.words.values())

    def count(self, measured: Sequence[MeasuredWeights]) -> dict[str, dict[str, int]]:
        """Return |R| of each mask per parameter, frozen ones included, over all processes, which all must call this.

        So it stays what it was when a frozen parameter starts to train.
        """

        def here() -> torch.Tensor:
            ones = [[count_ones(words[weights.name]) for weights in measured] for words in self.words.values()]
            return torch.tensor(ones, dtype=torch.int64, device="cpu")

        counted = {}
        for name, ones in zip(self.words, self._ranks.sum_of(here).tolist(), strict=True):
            frozen = dict(zip(self._frozen, self._ones_of_frozen[name], strict=True))
            counted[name] = frozen | {weights.name: count for weights, count in zip(measured, ones, strict=True)}
        return counted


def zero_masks(measured: Sequence[MeasuredWeights]) -> dict[str, torch.Tensor]:
    """Return a mask of nothing, where the weights are: parameter name → int32 words."""
    return {w.name: torch.zeros(word_count(w.count), dtype=torch.int32, device=w.source.device) for w in measured}


def _parts(name: str, mask: ReferenceMask, measured: Sequence[MeasuredWeights]) -> dict[str, torch.Tensor]:
    parts = {w.name: w.words_of_whole(partial(mask.read, w.name)).to(w.source.device) for w in measured}
    for weights in measured:
        words = parts[weights.name]
        # Kernels read as many as the mask of the weights has, whatever is there.
        if words.dtype != torch.int32 or words.shape != (word_count(weights.count),):
            raise MaskMismatchError(
                f"reference mask {name!r} has words of {words.dtype} and shape {list(words.shape)} for {weights.name}; "
                f"expected int32 of shape {[word_count(weights.count)]}. Make masks with UpdateMask.from_bools."
            )
    return parts


def _covers(mask: ReferenceMask, weights: MeasuredWeights) -> bool:
    return mask.shapes.get(weights.name) == weights.shape


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
            stacklevel=8,
        )
