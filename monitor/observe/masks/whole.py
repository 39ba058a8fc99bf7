"""Masks of the whole model, made of what each process has, one parameter after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from monitor.observe.kernels.contract import word_count
from monitor.observe.masks.file import MaskMetadata, write_mask
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.ranks import Alone
from monitor.observe.weights.measured import MeasuredWeights


def whole_mask(
    words: Mapping[str, torch.Tensor], measured: Sequence[MeasuredWeights], metadata: MaskMetadata, ranks: Alone
) -> UpdateMask:
    """Return the mask of the whole model on the first process, and one of no parameters on the others.

    All processes must call it. The others' hosts have no room for a mask of the whole model each.
    """
    whole, shapes = {}, {}
    for weights, together in zip(measured, _whole_words(words, measured, ranks), strict=True):
        if ranks.rank == 0:
            whole[weights.name], shapes[weights.name] = together, weights.shape
    return UpdateMask(whole, shapes, metadata)


def save_whole_mask(
    path: Path | None,
    words: Mapping[str, torch.Tensor],
    measured: Sequence[MeasuredWeights],
    metadata: MaskMetadata,
    ranks: Alone,
) -> None:
    """Write the mask of the whole model on the first process, without a copy of it in memory. All must call it.

    Raises:
        OSError: the file cannot be written.
    """
    whole = _whole_words(words, measured, ranks)
    try:
        if ranks.rank == 0 and path is not None:
            write_mask(path, whole, {weights.name: weights.shape for weights in measured}, vars(metadata))
    finally:
        # Every process takes part for every parameter, whatever becomes of the file.
        for _ in whole:
            pass


def _whole_words(
    words: Mapping[str, torch.Tensor], measured: Sequence[MeasuredWeights], ranks: Alone
) -> Iterator[torch.Tensor]:
    error: Exception | None = None
    for weights in measured:
        try:
            own = weights.words_in_whole(words[weights.name].cpu())
        except Exception as failure:  # noqa: BLE001 - raised on every process below, when none waits for another
            error = failure
            own = torch.zeros(word_count(math.prod(weights.shape)), dtype=torch.int32, device="cpu")
        yield ranks.sum(own).cpu()
    ranks.agree(error)
