"""Masks made of masks: the weights that are in at least so many of them, or in the first one alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path

import torch

from monitor.analysis.masks.fitting import FittingMasks
from monitor.observe.bits import count_ones, word_count
from monitor.observe.chunk_sizes import ELEMENTS_ON_CPU, WORDS_OF_A_FILE
from monitor.observe.masks.file import write_mask
from monitor.observe.overlap import ratio


@dataclass(frozen=True)
class Combination:
    """A way to make one mask of several.

    Attributes:
        words: int32 words of each mask → those of the combined one. Of unused bits, which are 0, it makes 0.
        probability: of a weight to be in it, if it is in each mask with a probability of its own.
    """

    words: Callable[[Sequence[torch.Tensor]], torch.Tensor]
    probability: Callable[[Sequence[float]], float]


@dataclass(frozen=True)
class Combined:
    """What was written.

    Attributes:
        weights: that the mask covers.
        ones: of these, those in the mask.
        expected: ones that chance gives, if those of each mask are spread evenly within each matrix.
    """

    weights: int
    ones: int
    expected: float

    @property
    def density(self) -> float:
        """Ones ÷ weights; NaN where there are no weights."""
        return ratio(self.ones, self.weights)

    @property
    def expected_density(self) -> float:
        """Density that chance gives."""
        return ratio(self.expected, self.weights)


def at_least(masks: int) -> Combination:
    """Return the weights that are in at least so many masks: 1 is the union, all of them the intersection."""
    return Combination(partial(_in_at_least, masks), partial(_probability_of_at_least, masks))


ONLY_FIRST = Combination(
    lambda words: reduce(lambda left, other: left & ~other, words),
    lambda densities: densities[0] * math.prod(1 - each for each in densities[1:]),
)
"""The weights that are in the first mask and in no other."""


def _in_at_least(masks: int, words: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return ones where at least so many of the words have one.

    32 weights are counted at once: each plane holds one binary digit of 32 counts, and a mask is added with carry.
    """
    planes = [torch.zeros_like(words[0]) for _ in range(max(masks, len(words)).bit_length())]
    for carry in words:
        for position, plane in enumerate(planes):
            planes[position], carry = plane ^ carry, plane & carry  # noqa: PLW2901 - what is carried into the next plane
    above, equal = torch.zeros_like(words[0]), ~torch.zeros_like(words[0])
    for position, plane in reversed(list(enumerate(planes))):
        if masks >> position & 1:
            equal = equal & plane
        else:
            above, equal = above | (equal & plane), equal & ~plane
    return above | equal


def _probability_of_at_least(masks: int, densities: Sequence[float]) -> float:
    """Return the probability that at least so many of independent events happen: the Poisson binomial distribution."""
    exactly = [1.0]
    for density in densities:
        happens = [0.0, *(each * density for each in exactly)]
        not_happens = [*(each * (1 - density) for each in exactly), 0.0]
        exactly = [a + b for a, b in zip(happens, not_happens, strict=True)]
    return math.fsum(exactly[masks:])


def write_combination(
    path: Path, masks: FittingMasks, combination: Combination, made_by: str, advance: Callable[[int], None]
) -> Combined:
    """Write a mask made of masks; in memory is one parameter's mask.

    Args:
        path: appears only when it is complete.
        made_by: what is said of it in the file.
        advance: called with the number of weights that were combined since.

    Raises:
        MaskFileError: a file is damaged.
        OSError: the file cannot be written; what was at `path` is still there.
    """
    ones, expected = [0], [0.0]

    def combined() -> Iterator[torch.Tensor]:
        for name, weights in masks.weights.items():
            words, counts = _combined(masks, name, combination)
            ones.append(count_ones(words))
            if weights:
                expected.append(weights * combination.probability([count / weights for count in counts]))
            yield words
            advance(weights)

    said = {**vars(masks.shared_metadata), "made_by": made_by, "made_of": ", ".join(masks.paths)}
    write_mask(path, combined(), masks.shapes, said)
    return Combined(sum(masks.weights.values()), sum(ones), math.fsum(expected))


def _combined(masks: FittingMasks, name: str, combination: Combination) -> tuple[torch.Tensor, list[int]]:
    """Return the words of one parameter, and how many ones each mask has in it."""
    whole = torch.empty(word_count(masks.weights[name]), dtype=torch.int32, device="cpu")
    counts = [0] * len(masks.files)
    for first in range(0, whole.numel(), WORDS_OF_A_FILE):
        last = first + WORDS_OF_A_FILE
        words = [file.read(name, first, last) for file in masks.files]
        counts = [count + count_ones(each) for count, each in zip(counts, words, strict=True)]
        for start in range(0, words[0].numel(), ELEMENTS_ON_CPU):
            chunk = slice(start, start + ELEMENTS_ON_CPU)
            whole[first:last][chunk] = combination.words([each[chunk] for each in words])
    return whole, counts
