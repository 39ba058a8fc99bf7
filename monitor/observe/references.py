"""Reference masks of other runs, as far as they concern the weights that this process measures."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch

from monitor.errors import name_some
from monitor.observe.kernels.contract import word_count
from monitor.observe.mask import UpdateMask
from monitor.observe.measured import MeasuredWeights
from monitor.observe.ranks import Alone
from monitor.observe.words import count_ones


class ReferenceMasks:
    """The words of each reference mask, beside the weights.

    Args:
        masks: name → mask; it must cover every measured parameter.
        measured: what this process measures.
        frozen: what may start to train.
        base_fingerprint: of the base; a mask against another one is named in a warning.

    Attributes:
        words: name → parameter name → int32 words of the part that this process measures, where the weights are.

    Raises:
        MaskMismatchError: a mask lacks a parameter, or has another shape.
    """

    def __init__(
        self,
        masks: Mapping[str, UpdateMask],
        measured: Sequence[MeasuredWeights],
        frozen: Iterable[MeasuredWeights],
        base_fingerprint: str,
    ) -> None:
        shapes = {weights.name: weights.shape for weights in measured}
        for name, mask in masks.items():
            mask.check_covers(shapes, f"the model, as reference mask {name!r}")
            _warn_of_another_base(name, mask, shapes, base_fingerprint)
        frozen_shapes = {weights.name: weights.shape for weights in frozen}
        self._of_frozen = {
            name: {w: mask.words[w] for w, shape in frozen_shapes.items() if mask.shapes.get(w) == shape}
            for name, mask in masks.items()
        }
        self.words = {name: _parts(mask.words, measured) for name, mask in masks.items()}

    def take_up(self, late: Sequence[MeasuredWeights]) -> None:
        """Cover parameters that have started to train, too."""
        for name, words in self._of_frozen.items():
            if uncovered := [weights.name for weights in late if weights.name not in words]:
                warnings.warn(
                    f"reference mask {name!r} lacks {name_some(uncovered)}, which train now: it counts as empty there.",
                    stacklevel=8,
                )
            self.words[name] |= zero_masks(late) | _parts(words, [w for w in late if w.name in words])

    def of(self, parameter: str) -> tuple[torch.Tensor, ...]:
        """Return the words of a parameter in each mask."""
        return tuple(words[parameter] for words in self.words.values())

    def count(self, measured: Sequence[MeasuredWeights], ranks: Alone) -> dict[str, dict[str, int]]:
        """Return |R| of each mask per parameter, frozen ones included, over all processes, which all must call this.

        So it stays what it was when a frozen parameter starts to train.
        """
        counted = {}
        for name, words in self.words.items():
            ones = ranks.sum(torch.tensor([count_ones(words[w.name]) for w in measured])).tolist()
            frozen = {other: count_ones(whole) for other, whole in self._of_frozen[name].items() if other not in words}
            counted[name] = frozen | {w.name: count for w, count in zip(measured, ones, strict=True)}
        return counted


def zero_masks(measured: Sequence[MeasuredWeights]) -> dict[str, torch.Tensor]:
    """Return a mask of nothing, where the weights are: parameter name → int32 words."""
    return {w.name: torch.zeros(word_count(w.count), dtype=torch.int32, device=w.source.device) for w in measured}


def _parts(words: Mapping[str, torch.Tensor], measured: Sequence[MeasuredWeights]) -> dict[str, torch.Tensor]:
    return {w.name: w.words_of_whole(words[w.name]).to(w.source.device) for w in measured}


def _warn_of_another_base(
    name: str, mask: UpdateMask, shapes: Mapping[str, tuple[int, ...]], base_fingerprint: str
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
