"""Random masks with exactly as many ones as asked for: what an overlap is compared with.

Structural random masks (observe/masks/structural.py) are ranked, so that each process makes its own part of one. Here
a parameter is drawn at once, which takes a fifth of the time.
"""

from __future__ import annotations

import random
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch

from monitor.observe.bits import BITS_PER_WORD, pack, word_count

# Weights of which the ones are drawn at a time: 8 MB of positions. A multiple of the bits of a word.
_CHUNK = 1 << 20

Seed = tuple[int, int, str]
"""A seed that was given, the position of a mask, and the name of a parameter."""


def random_words(weights: int, ones: int, seed: Seed) -> torch.Tensor:
    """Return int32 words with exactly `ones` of the first `weights` bits set, every such choice equally likely.

    The same for the same seed, with one version of numpy.
    """
    number, position, name = seed
    generator = np.random.default_rng([number, position, crc32(name.encode())])
    words = torch.empty(word_count(weights), dtype=torch.int32, device="cpu")
    sizes = [min(_CHUNK, weights - first) for first in range(0, weights, _CHUNK)]
    for chunk, (size, some) in enumerate(zip(sizes, split(sizes, ones, generator), strict=True)):
        first = chunk * _CHUNK // BITS_PER_WORD
        words[first : first + word_count(size)] = pack(torch.from_numpy(_choose(size, some, generator)))
    return words


def split(sizes: list[int], ones: int, generator: np.random.Generator) -> list[int]:
    """Return how many of the ones lie in each chunk: multivariate hypergeometric, of any number of weights.

    numpy draws that of fewer than 10⁹ weights, and large embeddings have more. So each weight is tossed for on its own,
    and what is too many or too few for the sum is taken from the ones, or put among the zeros, anywhere alike. No order
    of the weights is preferred, so that all choices of `ones` remain equally likely.
    """
    total = sum(sizes)
    tossed = generator.binomial(sizes, ones / total if total else 0.0)
    surplus = int(tossed.sum()) - ones
    among = tossed if surplus > 0 else np.array(sizes, dtype=np.int64) - tossed
    corrected = _draw(among, abs(surplus), generator)
    return [int(some) for some in tossed - np.sign(surplus) * corrected]


def _draw(amounts: npt.NDArray[np.int64], count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return how many of `count` things, drawn without replacement, come from each amount."""
    drawn = random.Random(int(generator.integers(1 << 63))).sample(range(int(amounts.sum())), count)
    return np.bincount(np.searchsorted(amounts.cumsum(), drawn, side="right"), minlength=len(amounts))


def _choose(size: int, ones: int, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return booleans of which exactly `ones` are true."""
    rare = 2 * ones <= size
    bits = np.full(size, not rare)
    bits[generator.choice(size, ones if rare else size - ones, replace=False, shuffle=False)] = rare
    return bits
