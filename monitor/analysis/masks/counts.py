"""How many ones masks have, and how many any two of them have in common, parameter by parameter, read in chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from monitor.analysis.masks.fitting import FittingMasks
from monitor.analysis.masks.random_control import random_words
from monitor.observe.bits import count_common_ones, count_ones, word_count
from monitor.observe.chunk_sizes import WORDS_OF_A_FILE
from monitor.observe.observation import IntArray


@dataclass(frozen=True)
class MaskCounts:
    """Counts of m masks in p parameters.

    Attributes:
        weights: parameter name → number of weights.
        common: int64 of shape (p, m, m): the ones that two masks have in common; on the diagonal, those that one has.
        control: the same of each mask (row) with a random one that has as many ones in each parameter as the other
            (column); None where none was asked for. The diagonal is a mask against a random one of its own density.
    """

    weights: Mapping[str, int]
    common: IntArray
    control: IntArray | None = None

    @property
    def ones(self) -> IntArray:
        """Ones of each mask in each parameter, int64 of shape (p, m)."""
        return np.diagonal(self.common, axis1=1, axis2=2)


def count_masks(masks: FittingMasks, seed: int | None, advance: Callable[[int], None]) -> MaskCounts:
    """Count the ones of masks and of their intersections.

    In memory are a few MB of each mask, and with a random control the whole masks of one parameter.

    Args:
        seed: of the random control; None for no control.
        advance: called with the number of weights that were counted since.

    Raises:
        MaskFileError: a file is damaged.
    """
    size = len(masks.files)
    weights = masks.weights
    common = np.zeros((len(weights), size, size), dtype=np.int64)
    control = None if seed is None else np.zeros_like(common)
    for row, (name, count) in enumerate(weights.items()):
        for first in range(0, word_count(count), WORDS_OF_A_FILE):
            last = first + WORDS_OF_A_FILE
            words = [file.read(name, first, last) for file in masks.files]
            _count_pairs(words, common[row])
        if seed is not None and control is not None:
            ones = common[row].diagonal().tolist()
            random = [random_words(count, k, (seed, of, name)) for of, k in enumerate(ones)]
            _count_against(masks, name, random, control[row])
        advance(count)
    return MaskCounts(weights, common, control)


def _count_pairs(words: Sequence[torch.Tensor], counts: IntArray) -> None:
    for of, each in enumerate(words):
        counts[of, of] += count_ones(each)
    for a, b in combinations(range(len(words)), 2):
        both = count_common_ones(words[a], words[b])
        counts[a, b] += both
        counts[b, a] += both


def _count_against(masks: FittingMasks, name: str, random: Sequence[torch.Tensor], counts: IntArray) -> None:
    for of, file in enumerate(masks.files):
        for first in range(0, random[of].numel(), WORDS_OF_A_FILE):
            words = file.read(name, first, first + WORDS_OF_A_FILE)
            for other, drawn in enumerate(random):
                counts[of, other] += count_common_ones(words, drawn[first : first + WORDS_OF_A_FILE])
