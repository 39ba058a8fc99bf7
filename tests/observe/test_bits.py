"""Masks of one bit per weight: packed, counted and combined in chunks, as if they were whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monitor.observe import bits
from monitor.observe.chunk_sizes import ELEMENTS_ON_CPU, WORDS_UNPACKED

# A word of its own, a rest of one, and more words than are worked on at a time.
COUNTS = (0, 1, 31, 32, 33, bits.BITS_PER_WORD * max(ELEMENTS_ON_CPU, WORDS_UNPACKED) + 45)


def some_bits(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.3


@pytest.mark.parametrize("count", COUNTS)
def test_bits_come_back_as_they_were_packed(count: int) -> None:
    flags = some_bits(count, 1)
    words = bits.pack(flags)
    assert words.shape == (bits.word_count(count),)
    assert torch.equal(bits.unpack(words, count), flags)
    assert not bits.unpack(words, words.numel() * 32)[count:].any(), "unused bits are 0"


@pytest.mark.parametrize("count", COUNTS)
def test_ones_are_those_of_the_booleans(count: int) -> None:
    one, other = some_bits(count, 1), some_bits(count, 2)
    words, others = bits.pack(one), bits.pack(other)
    assert bits.count_ones(words) == int(one.sum())
    assert bits.count_common_ones(words, others) == int((one & other).sum())
    assert torch.equal(bits.unpack(bits.combine(torch.bitwise_xor, words, others), count), one ^ other)


def test_ones_are_counted_in_every_bit_of_a_word() -> None:
    words = torch.tensor([-1, 0, 1, -(2**31), 2**31 - 1, 0x55555555], dtype=torch.int32)
    assert bits.count_ones(words) == 32 + 0 + 1 + 1 + 31 + 16


@pytest.mark.parametrize("counts_bits", [True, False])
def test_every_byte_is_counted_by_every_numpy(monkeypatch: pytest.MonkeyPatch, counts_bits: bool) -> None:
    if counts_bits and not hasattr(np, "bitwise_count"):
        pytest.skip("numpy 1 has no bitwise_count")
    monkeypatch.setattr(bits, "_HAS_BIT_COUNT", counts_bits)
    packed = np.arange(256, dtype=np.uint8)
    for first in range(9):
        assert bits.count_ones_in_bytes(packed[first:]) == sum(byte.bit_count() for byte in range(first, 256))
