"""Arithmetic on packed masks: 32 weights at a time, in pieces, on the device that the words are on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from monitor.observe.kernels import numpy_loops

# Words at a time on a device: the temporaries of a piece take some hundred MB.
_PIECE_ON_DEVICE = 1 << 24
# On a CPU the temporaries stay in cache, and no operation is so large that torch splits it among its threads.
_PIECE_ON_CPU = 1 << 14


def pieces(words: torch.Tensor) -> Iterator[slice]:
    """Return slices that cover the words, each of a size that is worked on at a time."""
    size = _PIECE_ON_CPU if words.device.type == "cpu" else _PIECE_ON_DEVICE
    return (slice(start, start + size) for start in range(0, words.numel(), size))


def count_ones(words: torch.Tensor) -> int:
    """Return the number of one bits in int32 words."""
    return sum(_ones(words[piece]) for piece in pieces(words))


def count_common_ones(words: torch.Tensor, others: torch.Tensor) -> int:
    """Return the number of bits that are one in both."""
    return sum(_ones(words[piece] & others[piece]) for piece in pieces(words))


def combine(
    operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], words: torch.Tensor, others: torch.Tensor
) -> torch.Tensor:
    """Return `operation(words, others)`, word by word."""
    result = torch.empty_like(words)
    for piece in pieces(words):
        result[piece] = operation(words[piece], others[piece])
    return result


def _ones(words: torch.Tensor) -> int:
    if words.device.type == "cpu":
        return numpy_loops.count_ones(words.numpy().view(np.uint8))
    # Bits added in pairs, fours, eights, in parallel (Warren, Hacker's Delight, 5-1). The shifts are arithmetic; the
    # masks clear what they drag in.
    words = words - ((words >> 1) & 0x55555555)
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    return int((((words * 0x01010101) >> 24) & 0xFF).sum().item())
