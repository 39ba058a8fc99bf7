"""One bit per weight in 32-bit words: packing, counting and combining masks on the device that they are on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from monitor.observe.chunk_sizes import WORDS_ON_GPU, WORDS_UNPACKED, elements_on

BITS_PER_WORD = 32

_HAS_BIT_COUNT = hasattr(np, "bitwise_count")  # since numpy 2


def word_count(weights: int) -> int:
    """Return how many 32-bit words hold one bit per weight."""
    return -(-weights // BITS_PER_WORD)


def pack(bits: torch.Tensor) -> torch.Tensor:
    """Pack booleans of shape (n,) into int32 words of shape (word_count(n),), the first weight in the lowest bit."""
    words = torch.empty(word_count(bits.numel()), dtype=torch.int32, device=bits.device)
    shifts = torch.arange(BITS_PER_WORD, device=bits.device, dtype=torch.int32)
    for chunk in _slices(words, WORDS_UNPACKED):
        target = words[chunk]
        some = bits[chunk.start * BITS_PER_WORD : (chunk.start + target.numel()) * BITS_PER_WORD]
        padded = torch.zeros(target.numel() * BITS_PER_WORD, dtype=torch.int32, device=bits.device)
        padded[: some.numel()] = some
        # Different bits never carry, so that the sum is right to the sign.
        torch.sum(padded.view(-1, BITS_PER_WORD) << shifts, dim=1, dtype=torch.int32, out=target)
    return words


def unpack(words: torch.Tensor, weights: int) -> torch.Tensor:
    """Return the first `weights` bits as booleans of shape (weights,)."""
    bits = torch.empty(words.numel(), BITS_PER_WORD, dtype=torch.bool, device=words.device)
    shifts = torch.arange(BITS_PER_WORD, device=words.device, dtype=torch.int32)
    for chunk in _slices(words, WORDS_UNPACKED):
        bits[chunk] = (words[chunk].unsqueeze(1) >> shifts) & 1
    return bits.view(-1)[:weights]


def chunks(words: torch.Tensor) -> Iterator[slice]:
    """Return slices that cover the words, each of a size that is worked on at a time."""
    return _slices(words, elements_on(words.device, WORDS_ON_GPU))


def _slices(words: torch.Tensor, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, words.numel(), size))


def count_ones(words: torch.Tensor) -> int:
    """Return the number of one bits in int32 words."""
    return sum(_ones(words[chunk]) for chunk in chunks(words))


def count_common_ones(words: torch.Tensor, others: torch.Tensor) -> int:
    """Return the number of bits that are one in both."""
    return sum(_ones(words[chunk] & others[chunk]) for chunk in chunks(words))


def count_ones_in_bytes(packed: npt.NDArray[np.uint8]) -> int:
    """Return the number of one bits in bytes, without torch and its threads."""
    if not _HAS_BIT_COUNT:
        return int.from_bytes(packed.tobytes(), "little").bit_count()
    whole = packed.size // 8 * 8
    ones = int(np.bitwise_count(packed[:whole].view(np.uint64)).sum(dtype=np.int64))
    return ones + int(np.bitwise_count(packed[whole:]).sum(dtype=np.int64))


def combine(
    operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], words: torch.Tensor, others: torch.Tensor
) -> torch.Tensor:
    """Return `operation(words, others)`, word by word."""
    result = torch.empty_like(words)
    for chunk in chunks(words):
        result[chunk] = operation(words[chunk], others[chunk])
    return result


def _ones(words: torch.Tensor) -> int:
    if words.device.type == "cpu":
        return count_ones_in_bytes(words.numpy().view(np.uint8))
    # Bits added in pairs, fours, eights, in parallel (Warren, Hacker's Delight, 5-1). The shifts are arithmetic; the
    # masks clear what they drag in.
    words = words - ((words >> 1) & 0x55555555)
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    return int((((words * 0x01010101) >> 24) & 0xFF).sum().item())
