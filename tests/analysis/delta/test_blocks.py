"""A block comes back to the bit, whatever its bits are, and takes as little as the best way of storing it."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from monitor.analysis.delta.blocks import Bits, Block, compress, decode, decompress, encode, largest_size
from monitor.errors import DeltaError

# NaN with payloads, −0 and 0, infinities, subnormals and neighbours, as patterns of 16 bits and of 32.
NASTY = [0x7FC1, 0xFFC0, 0x7F81, 0x8000, 0x0000, 0x7F80, 0xFF80, 0x0001, 0x8001, 0x7FC00001, 0xFFFFFFFF, 0x80000000]


def there_and_back(old: Bits | None, new: Bits) -> Block:
    block, frame = encode(old, new)
    assert block.length == len(frame)
    assert block.size <= largest_size(block, len(new), new.itemsize)
    source = np.zeros_like(new) if old is None else old
    again = decode(block, frame, source)
    assert again.dtype == new.dtype
    assert again.tobytes() == new.tobytes()
    return block


@st.composite
def two_blocks(draw: st.DrawFn) -> tuple[Bits, Bits]:
    width = draw(st.sampled_from([1, 2, 4, 8]))
    patterns = st.sampled_from(NASTY) | st.integers(0, 2 ** (8 * width) - 1)
    value = patterns.map(lambda each: each % 2 ** (8 * width))
    old = np.array(draw(st.lists(value, max_size=60)), dtype=f"<u{width}")
    new = old.copy()
    for position in draw(st.sets(st.integers(0, len(old) - 1))) if len(old) else ():
        new[position] = draw(value)
    return old, new


@given(two_blocks())
def test_every_pattern_of_bits_comes_back(blocks: tuple[Bits, Bits]) -> None:
    old, new = blocks
    block = there_and_back(old, new)
    assert block.changed == int((old != new).sum())
    there_and_back(None, new)


@pytest.mark.parametrize("density", [0.01, 0.1, 0.3, 0.5, 0.85, 1.0])
def test_at_every_density_it_takes_about_what_the_changes_carry(density: float) -> None:
    generator = np.random.default_rng(0)
    old = generator.integers(0, 2**16, 400_000, dtype="<u2")
    changed = generator.random(len(old)) < density
    steps = generator.choice([1, 3, 2**16 - 1], len(old)).astype("<u2")
    block = there_and_back(old, np.where(changed, old + steps, old))
    # Bits of information per value: whether it changed, and which of three steps.
    share = np.array([each for each in (density, 1 - density) if each])
    carried = float(-(share * np.log2(share)).sum() + density * np.log2(3))
    assert block.length * 8 / len(old) < 1.25 * carried


@pytest.mark.parametrize(("density", "kind"), [(0.0, "same"), (1e-5, "gaps"), (0.01, "gaps"), (0.85, "bitmap")])
def test_the_smallest_way_is_taken(density: float, kind: str) -> None:
    generator = np.random.default_rng(0)
    old = generator.integers(0, 2**16, 400_000, dtype="<u2")
    assert there_and_back(old, old + (generator.random(len(old)) < density)).kind == kind


def test_weights_that_have_nothing_to_do_with_the_base_are_stored_as_they_are() -> None:
    generator = np.random.default_rng(0)
    old = generator.integers(0, 2**16, 50_000, dtype="<u2")
    assert there_and_back(old, np.full_like(old, 0x3F80)).kind == "plain"


def test_distances_of_more_than_two_bytes_come_back() -> None:
    old = np.zeros(400_000, dtype="<u2")
    for positions in ([0], [399_999], [65_534], [65_535], [65_536], [0, 65_536, 131_072 + 1], [131_070, 131_071]):
        new = old.copy()
        new[positions] = 1
        assert there_and_back(old, new).kind == "gaps"


def test_neighbours_take_less_than_two_bytes_of_a_change() -> None:
    generator = np.random.default_rng(0)
    old = generator.integers(0, 2**16, 1_000_000, dtype="<u2")
    changed = generator.random(len(old)) < 0.05
    block = there_and_back(old, old + np.where(changed, generator.choice([1, 2**16 - 1], len(old)), 0).astype("<u2"))
    # An index of 4 bytes and a value of 2 would take 6; the positions alone carry 0.72 bytes, and the direction 0.125.
    assert block.length < 1.3 * block.changed


@pytest.mark.parametrize("size", [0, 999, 1001, 10**15])
def test_a_frame_makes_no_more_than_it_is_said_to_hold(size: int) -> None:
    with pytest.raises(DeltaError, match="not as many bytes"):
        decompress(compress(bytes(1000)), size)


def test_a_frame_that_lies_about_its_size_is_refused() -> None:
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10_000_000))
    with pytest.raises(DeltaError):
        decompress(unsized, 1000)
    with pytest.raises(DeltaError, match="damaged"):
        decompress(b"no frame", 8)


def test_a_frame_that_does_not_fit_its_block_is_refused() -> None:
    old = np.arange(10, dtype="<u2")
    block, frame = encode(old, old + np.array([0, 1] * 5, dtype="<u2"))
    for wrong in (block._replace(changed=4), block._replace(kind="gaps"), block._replace(kind="plain", changed=9)):
        with pytest.raises(DeltaError):
            decode(wrong, frame, np.arange(3, dtype="<u2"))
