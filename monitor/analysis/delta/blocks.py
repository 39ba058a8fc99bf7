"""One block of a tensor in a delta: where it changed and how, compressed with zstandard, in the smallest of four ways.

Values are bit patterns: unsigned integers as wide as a weight, little-endian. So −0, +0 and the payloads of NaN are
told apart, and every dtype is the same to this file. FORMAT.md has the layout in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import zstandard

from monitor.errors import DeltaError

BLOCK_VALUES = 1 << 22
"""Values in a block: what is in memory at once."""

Bits: TypeAlias = np.ndarray[tuple[int], np.dtype[Any]]
"""Unsigned integers of 1, 2, 4 or 8 bytes."""

Kind = Literal["same", "gaps", "bitmap", "all", "plain"]

# A distance of as much says that the change is further on.
_FURTHER = 0xFFFF
_LEVEL_OF_TEXT = 9
# Positions and steps are random: looking for what repeats takes time, and stands in the way of short codes for frequent
# bytes. Only long runs are worth a look: a tenth less than the usual levels at 5 % changed, in less than half the time.
_FOR_NUMBERS = zstandard.ZstdCompressionParameters.from_level(1, min_match=7, hash_log=6, write_content_size=True)
_WORTH_TRYING = 1.5


class Block(NamedTuple):
    """What the manifest says of a block.

    Attributes:
        kind: how the changes are stored; "same" where there are none, and no frame.
        changed: values whose bits differ from the source's.
        size: bytes in the frame when decompressed.
        length: bytes of the frame in the file.
    """

    kind: Kind
    changed: int
    size: int
    length: int


def encode(old: Bits | None, new: Bits) -> tuple[Block, bytes]:
    """Return the smallest description of `new`, and its frame.

    Args:
        old: the source's bits, as many and as wide; None if there is no source.
        new: the bits to be described, one-dimensional.
    """
    if old is None:
        return _compressed("plain", len(new), _planes(new))
    positions = np.flatnonzero(old != new)
    if not len(positions):
        return Block("same", 0, 0, 0), b""
    width, count, changed = new.itemsize, len(new), len(positions)
    # Bytes before zstandard. Only what comes near the least of them is compressed: that takes most of the time.
    sizes: dict[Kind, int] = {
        "gaps": (2 + width) * changed,
        "bitmap": count // 8 + width * changed,
        "all": width * count,
        "plain": width * count,
    }
    tried = [kind for kind, size in sizes.items() if size <= _WORTH_TRYING * min(sizes.values())]
    return min(
        (_compressed(kind, changed, _WRITERS[kind](old, new, positions)) for kind in tried),
        key=lambda each: each[0].length,
    )


def decode(block: Block, frame: bytes, old: Bits) -> Bits:
    """Return the bits that a block describes.

    Args:
        block: what the manifest says of it.
        frame: its bytes in the file.
        old: the source's bits, as many and as wide as those wanted; zeros if there is no source.

    Raises:
        DeltaError: the frame holds something else than the manifest says.
    """
    if block.kind == "same":
        return old
    raw = np.frombuffer(decompress(frame, block.size), dtype=np.uint8)
    try:
        return _READERS[block.kind](raw, block.changed, old)
    except (ValueError, IndexError) as error:
        raise DeltaError(f"a block does not hold what the delta says of it ({error}).") from error


def largest_size(block: Block, count: int, width: int) -> int:
    """Return how many bytes a frame can have at most when decompressed, for a block of `count` values."""
    further = count // _FURTHER
    sizes = {
        "same": 0,
        "gaps": 2 * (block.changed + further) + width * block.changed,
        "bitmap": -(-count // 8) + width * block.changed,
    }
    return sizes.get(block.kind, width * count)


def compress(text: bytes) -> bytes:
    """Return one frame of text, which says how many bytes it holds."""
    return zstandard.ZstdCompressor(level=_LEVEL_OF_TEXT).compress(text)


def decompress(frame: bytes, size: int) -> bytes:
    """Return what a frame holds; no more than the expected bytes are ever made.

    Raises:
        DeltaError: it is damaged, or holds more or fewer bytes.
    """
    try:
        if zstandard.frame_content_size(frame) != size:
            raise DeltaError(f"a frame holds not as many bytes as the delta says ({size}).")
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
    except zstandard.ZstdError as error:
        raise DeltaError(f"a frame is damaged ({error}).") from error


def _compressed(kind: Kind, changed: int, planes: Sequence[bytes]) -> tuple[Block, bytes]:
    size = sum(map(len, planes))
    compressor = zstandard.ZstdCompressor(compression_params=_FOR_NUMBERS).compressobj(size=size)
    parts = []
    for plane in planes:
        # Each plane has frequent bytes of its own: a block of zstandard ends with it, and the next one has other codes.
        parts += [compressor.compress(plane), compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    frame = b"".join([*parts, compressor.flush()])
    return Block(kind, changed, size, len(frame)), frame


def _write_gaps(old: Bits, new: Bits, positions: Bits) -> list[bytes]:
    return _planes(_symbols(np.diff(positions, prepend=-1) - 1)) + _planes(_steps(old[positions], new[positions]))


def _symbols(gaps: Bits) -> Bits:
    """Return distances in two bytes each, those that do not fit in several times two."""
    if gaps.max() < _FURTHER:
        return gaps.astype("<u2")
    further, rest = np.divmod(gaps, _FURTHER)
    symbols = np.full(len(gaps) + int(further.sum()), _FURTHER, dtype="<u2")
    symbols[np.cumsum(further + 1) - 1] = rest
    return symbols


def _read_gaps(raw: Bits, changed: int, old: Bits) -> Bits:
    split = len(raw) - old.itemsize * changed
    symbols = _from_planes(raw[:split], np.dtype("<u2"))
    ends = symbols != _FURTHER
    positions = np.cumsum(symbols.astype(np.int64) + ends)[ends] - 1
    return _moved(old, positions, raw[split:])


def _write_bitmap(old: Bits, new: Bits, positions: Bits) -> list[bytes]:
    words = np.packbits(old != new, bitorder="little").tobytes()
    return [words, *_planes(_steps(old[positions], new[positions]))]


def _read_bitmap(raw: Bits, changed: int, old: Bits) -> Bits:
    split = -(-len(old) // 8)
    positions = np.flatnonzero(np.unpackbits(raw[:split], count=len(old), bitorder="little").view(np.bool_))
    return _moved(old, positions, raw[split:])


def _write_all(old: Bits, new: Bits, positions: Bits) -> list[bytes]:
    return _planes(_steps(old, new))


def _read_all(raw: Bits, changed: int, old: Bits) -> Bits:
    return _after_steps(old, _from_planes(raw, old.dtype))


def _write_plain(old: Bits, new: Bits, positions: Bits) -> list[bytes]:
    return _planes(new)


def _read_plain(raw: Bits, changed: int, old: Bits) -> Bits:
    bits = _from_planes(raw, old.dtype)
    if len(bits) != len(old):
        raise ValueError(f"{len(bits)} values instead of {len(old)}")
    return bits


_WRITERS: dict[Kind, Callable[[Bits, Bits, Bits], list[bytes]]] = {
    "gaps": _write_gaps,
    "bitmap": _write_bitmap,
    "all": _write_all,
    "plain": _write_plain,
}
_READERS: dict[Kind, Callable[[Bits, int, Bits], Bits]] = {
    "gaps": _read_gaps,
    "bitmap": _read_bitmap,
    "all": _read_all,
    "plain": _read_plain,
}


def _moved(old: Bits, positions: Bits, raw: Bits) -> Bits:
    steps = _from_planes(raw, old.dtype)
    if len(steps) != len(positions):
        raise ValueError(f"{len(positions)} positions and {len(steps)} values")
    new = old.copy()
    new[positions] = _after_steps(old[positions], steps)
    return new


def _steps(old: Bits, new: Bits) -> Bits:
    """Return how far each pattern moved, in representable steps: 0, −1, 1, −2, … as 0, 1, 2, 3, …"""
    steps: Bits = new - old
    signs = steps.view(f"<i{steps.itemsize}") >> (8 * steps.itemsize - 1)
    steps <<= 1
    steps ^= signs.view(steps.dtype)
    return steps


def _after_steps(old: Bits, steps: Bits) -> Bits:
    # Unsigned, so that 0 − 1 is all ones.
    new: Bits = old + ((steps >> 1) ^ (0 - (steps & 1)))
    return new


def _planes(values: Bits) -> list[bytes]:
    """Return the lowest byte of each value, then the next one of each: alike with alike compresses better."""
    return [plane.tobytes() for plane in values.view(np.uint8).reshape(-1, values.itemsize).T]


def _from_planes(raw: Bits, dtype: np.dtype[Any]) -> Bits:
    return np.ascontiguousarray(raw.reshape(dtype.itemsize, -1).T).reshape(-1).view(dtype)
