"""What a process reads of a mask of the whole parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.observe.kernels.contract import word_count
from monitor.observe.kernels.reference import pack
from monitor.observe.weights.shard import Part


@dataclass
class Words:
    """A packed mask that remembers what was read of it."""

    words: torch.Tensor
    read: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, first: int, last: int) -> torch.Tensor:
        self.read.append((first, last))
        return self.words[first:last]


@st.composite
def parts(draw: st.DrawFn) -> Part:
    shape = tuple(draw(st.lists(st.integers(1, 40), max_size=3)))
    bounds = [sorted((draw(st.integers(0, size)), draw(st.integers(0, size)))) for size in shape]
    box = tuple((first, last) for first, last in bounds)
    inside = math.prod(last - first for first, last in box)
    start, stop = sorted((draw(st.integers(0, inside)), draw(st.integers(0, inside))))
    return Part("w", shape, box, start, stop)


@settings(max_examples=400, deadline=None)
@given(part=parts(), seed=st.integers(0, 2**32 - 1))
def test_a_part_has_the_bits_that_the_whole_mask_has_there(part: Part, seed: int) -> None:
    bits = torch.rand(part.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    whole = Words(pack(bits.reshape(-1)))
    before = whole.words.clone()
    found = part.words_of_whole(whole)
    assert found.dtype == torch.int32
    assert torch.equal(found, pack(part.of_whole(bits)))
    assert torch.equal(whole.words, before), "the mask belongs to somebody else"


@given(rows=st.integers(1, 50), row=st.integers(1, 50), data=st.data())
def test_of_some_rows_only_their_words_are_read(rows: int, row: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, rows - 1))
    last = data.draw(st.integers(first + 1, rows))
    part = Part("w", (rows, row), ((first, last), (0, row)), 0, (last - first) * row)
    whole = Words(torch.zeros(word_count(rows * row), dtype=torch.int32))
    part.words_of_whole(whole)
    assert whole.read == [(first * row // 32, word_count(last * row))]


def test_whole_words_are_not_copied() -> None:
    words = torch.arange(64, dtype=torch.int32)
    part = Part("w", (32, 64), ((16, 32), (0, 64)), 0, 16 * 64)
    assert part.words_of_whole(Words(words)).data_ptr() == words[32:].data_ptr()
