"""Masks made of masks: weights that are in all, in any, in at least m of them, or in the first alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import torch

from monitor.analysis.masks.fitting import FittingMasks
from monitor.observe.bits import word_count
from monitor.observe.chunk_sizes import ELEMENTS_ON_CPU, WORDS_OF_A_FILE

Combine = Callable[[Sequence[torch.Tensor]], torch.Tensor]
"""Words of each mask → words of the combined one."""


def at_least(masks: int) -> Combine:
    """Return the combination that has the weights of at least so many masks: 1 is the union, all the intersection."""
    return lambda words: in_at_least(words, masks)


def difference(words: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return what is in the first mask and in no other."""
    return reduce(lambda left, other: left & ~other, words)


def in_at_least(words: Sequence[torch.Tensor], masks: int) -> torch.Tensor:
    """Return words with a one where at least `masks` of the words have one; 1 or more.

    The masks are counted for 32 weights at once: each plane holds one binary digit of the 32 counts, and adding a mask
    is adding 1 with carry.
    """
    planes = [torch.zeros_like(words[0]) for _ in range(len(words).bit_length())]
    for carry in words:
        for position, plane in enumerate(planes):
            planes[position], carry = plane ^ carry, plane & carry  # noqa: PLW2901 - it is carried on
    return _not_below(planes, masks)


def _not_below(planes: Sequence[torch.Tensor], number: int) -> torch.Tensor:
    """Return where counts, given as planes of digits from the lowest on, are at least a number."""
    above = torch.zeros_like(planes[0])
    equal = ~above
    for position in reversed(range(len(planes))):
        if number >> position & 1:
            equal = equal & planes[position]
        else:
            above, equal = above | (equal & planes[position]), equal & ~planes[position]
    return above | equal


def combined_words(masks: FittingMasks, combine: Combine, advance: Callable[[int], None]) -> Iterator[torch.Tensor]:
    """Yield the int32 words of each parameter of a combination; in memory is one parameter's mask.

    Args:
        advance: called with the number of weights that were combined since.

    Raises:
        MaskFileError: a file is damaged.
    """
    for name, weights in masks.weights.items():
        whole = torch.empty(word_count(weights), dtype=torch.int32, device="cpu")
        for first in range(0, whole.numel(), WORDS_OF_A_FILE):
            words = [file.read(name, first, first + WORDS_OF_A_FILE) for file in masks.files]
            _combine_into(whole[first : first + WORDS_OF_A_FILE], words, combine)
        yield whole
        advance(weights)


def _combine_into(target: torch.Tensor, words: Sequence[torch.Tensor], combine: Combine) -> None:
    for first in range(0, target.numel(), ELEMENTS_ON_CPU):
        chunk = slice(first, first + ELEMENTS_ON_CPU)
        target[chunk] = combine([each[chunk] for each in words])
