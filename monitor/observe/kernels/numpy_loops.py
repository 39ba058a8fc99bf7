"""The loops of cpu.py in numpy, for where nothing can be compiled: one operation after the other on a chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from monitor.observe.bits import count_ones_in_bytes
from monitor.observe.chunk_sizes import WEIGHTS_IN_NUMPY
from monitor.observe.kernels.contract import (
    CHANGED,
    FIXED_COLUMNS,
    HIDDEN,
    MAX_ABS,
    NEWLY_CHANGED,
    NON_FINITE,
    REVERTED,
    SQUARED_NORM,
    STEP_CHANGED,
    TOUCHED,
)
from monitor.observe.kernels.kinds import BFLOAT16, FLOAT16, FLOAT32, LOW_BYTE

CHUNK = WEIGHTS_IN_NUMPY

u8, u16, u32 = np.uint8, np.uint16, np.uint32

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

_INFINITY: dict[int, Any] = {BFLOAT16: u16(0x7F80), FLOAT16: u16(0x7C00), FLOAT32: u32(0x7F800000)}
_QUIET_NAN = {BFLOAT16: 0x7FC0, FLOAT16: 0x7E00}


def widen(bits: Array, kind: int) -> npt.NDArray[np.float32]:
    """Convert to float32, exactly."""
    if kind == BFLOAT16:
        wide = bits.astype(u32)
        wide <<= u32(16)
        return wide.view(np.float32)
    return bits.view(np.float16).astype(np.float32) if kind == FLOAT16 else bits.view(np.float32)


def narrow(values: npt.NDArray[np.float32], kind: int) -> Array:
    """Round float32 to nearest, ties to even."""
    if kind == FLOAT16:
        return values.astype(np.float16).view(u16)
    bits = values.view(u32)
    if kind == FLOAT32:
        return bits
    rounded = ((bits + u32(0x7FFF) + ((bits >> u32(16)) & u32(1))) >> u32(16)).astype(u16)
    # Rounding a NaN could carry into infinity, or beyond the sign.
    rounded[np.isnan(values)] = _QUIET_NAN[BFLOAT16]
    return rounded


def convert(bits: Array, kind: int, to: int) -> Array:
    """Convert between kinds."""
    return bits if kind == to else narrow(widen(bits, kind), to)


def positions(bits: Array, kind: int) -> npt.NDArray[np.int16]:
    """Find the place of 16-bit weights among all representable values; see low_byte.py."""
    size = (bits & u16(0x7FFF)).view(np.int16)
    size[size > _INFINITY[kind].view(np.int16)] = _QUIET_NAN[kind]
    sign = bits.view(np.int16) >> np.int16(15)
    sign[size == _QUIET_NAN[kind]] = 0
    size ^= sign
    size -= sign
    return size


def nearest(low: Bytes, places: npt.NDArray[np.int16]) -> npt.NDArray[np.uint16]:
    """Reconstruct the weights with these low bytes that are nearest to `places`; see low_byte.py."""
    place = places.astype(np.int32)
    found = place - (((place - low + 128) & 0xFF) - 128)
    size = np.minimum(np.abs(found), 0x7FFF)
    return (size | np.where(found < 0, 0x8000, 0)).astype(u16)


def differ(bits: Array, others: Array) -> tuple[Bools, Array]:
    """Compare by value: −0 = +0, and NaN differs from everything. Return also `bits` without sign."""
    kind_of_sign = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    differs: Bools = bits != others
    # Different bits that have no one but the sign's are two zeros.
    differs &= (bits | others) != kind_of_sign
    return differs, bits & ~kind_of_sign


def low_bytes(bits: Array, kind: int, *, nan: Bools | None) -> Bytes:
    """Return the low bytes of positions: those of the bits, negated where the sign is set."""
    sign = (bits.view(np.int16) >> np.int16(15)).astype(u8)
    low: Bytes = bits.astype(u8)
    low ^= sign
    low -= sign
    if nan is not None:
        low[nan] = _QUIET_NAN[kind] & 0xFF
    return low


def measure(
    current: Array,
    base: Array,
    now: Array,
    then: Array,
    mask: Array,
    previous: Array,
    touched: Array,
    stored: int,
    kept: int,
    visible: int,
    limit: int,
    limits: Array,
    counts: npt.NDArray[np.int64],
    floats: npt.NDArray[np.float64],
) -> None:
    """Measure a chunk that starts at a word; see numba_loops.measure."""
    if not current.size:
        return
    # inf − inf is NaN, and is left out of the sums.
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        seen = now if now.size else convert(current, stored, visible)
        if then.size:
            before = then
        elif kept == LOW_BYTE:
            before = nearest(base, positions(seen, visible))
        else:
            before = convert(base, kept, visible)
        differs, size = differ(seen, before)
        nan = None
        if size.max() >= _INFINITY[visible]:
            counts[NON_FINITE] += np.count_nonzero(size >= _INFINITY[visible])
            nan = size > _INFINITY[visible]
            differs |= nan
        if visible not in (stored, FLOAT32):
            was = convert(before, visible, stored) if kept == LOW_BYTE else convert(base, kept, stored)
            counts[HIDDEN] += np.count_nonzero(differ(current, was)[0] & ~differs)
        changed = _distances(seen, before, differs, visible, limit, limits, counts, floats)

        new = np.packbits(changed, bitorder="little")
        old = mask.view(u8)[: new.size]
        flipped = new ^ old
        old[:] = new
        counts[CHANGED] += np.count_nonzero(changed)
        newly = count_ones_in_bytes(flipped & new)
        counts[NEWLY_CHANGED] += newly
        counts[REVERTED] += count_ones_in_bytes(flipped) - newly
        if previous.size:
            _step(seen, visible, nan, previous, flipped, touched.view(u8)[: new.size], counts)


def _distances(
    seen: Array,
    before: Array,
    differs: Bools,
    visible: int,
    limit: int,
    limits: Array,
    counts: npt.NDArray[np.int64],
    floats: npt.NDArray[np.float64],
) -> Bools:
    """Add |Δ| to norms and to the counts at the limits; return where it is above `limit`."""
    where = np.flatnonzero(differs)
    if not where.size:
        return differs
    if where.size < differs.size:
        seen, before = seen.take(where), before.take(where)
    distance = widen(seen, visible) - widen(before, visible)
    np.abs(distance, out=distance)
    for i, bits in enumerate(limits):
        # NaN is above every limit.
        counts[FIXED_COLUMNS + i] += np.count_nonzero(~(distance <= bits.view(np.float32)))
    changed = differs
    if limit >= 0:
        changed = np.zeros_like(differs)
        changed[where] = ~(distance <= u32(limit).view(np.float32))
    largest = distance.max()
    if not np.isfinite(largest):
        distance = distance[np.isfinite(distance)]
        largest = distance.max(initial=np.float32(0))
    exact = distance.astype(np.float64)
    exact *= exact
    floats[SQUARED_NORM] += exact.sum()
    floats[MAX_ABS] = max(floats[MAX_ABS], float(largest))
    return changed


def _step(
    seen: Array,
    visible: int,
    nan: Bools | None,
    previous: Array,
    flipped: Bytes,
    touched: Bytes,
    counts: npt.NDArray[np.int64],
) -> None:
    if visible == FLOAT32:
        moved = differ(seen, previous)[0]
        previous[:] = seen
    else:
        low = low_bytes(seen, visible, nan=nan)
        moved = low != previous
        previous[:] = low
    if nan is not None:
        moved |= nan
    step = np.packbits(moved, bitorder="little")
    step |= flipped
    touched |= step
    counts[STEP_CHANGED] += count_ones_in_bytes(step)
    counts[TOUCHED] += count_ones_in_bytes(touched)


def intersect(mask: Array, reference: Array) -> int:
    """Count the ones in both."""
    return count_ones_in_bytes((mask & reference).view(u8))
