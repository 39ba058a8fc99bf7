"""The loops of cpu.py, compiled by numba: the extra `fast`. They know bit patterns in arrays, and nothing of tensors.

A span of weights is converted, compared, subtracted and packed by one short loop each, which the compiler turns into
vector instructions; what they hand to each other stays in the first-level cache, and each weight is read from memory
once. Every intermediate is cast back to its width, because numba computes with 64 bits otherwise.

Numba's cache on disk keeps the numbers imported here, and is thrown away for changes of this file only: change it, too,
where contract.py, kinds.py or chunk_sizes.py gets other columns, kinds or sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from monitor.observe.chunk_sizes import SPAN_IN_NUMBA, WEIGHTS_IN_NUMBA
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

CHUNK = WEIGHTS_IN_NUMBA
SPAN = SPAN_IN_NUMBA

u8, u16, u32, u64, f32, f64 = np.uint8, np.uint16, np.uint32, np.uint64, np.float32, np.float64


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:
        # Neither beside this file nor in the home directory can a cache be written.
        return numba.njit(nogil=True, **options)(function)


@_compiled
def as_float(bits):
    return u32(bits).view(np.float32)


@_compiled
def as_bits(value):
    return f32(value).view(np.uint32)


@_compiled
def infinity_of(kind):
    return u32(0x7F80) if kind == BFLOAT16 else (u32(0x7C00) if kind == FLOAT16 else u32(0x7F800000))


@_compiled
def widen(source, kind, bits):
    """Convert to the bits of float32, exactly."""
    if kind == BFLOAT16:
        for i in range(source.size):
            bits[i] = u32(u32(source[i]) << u32(16))
    elif kind == FLOAT16:
        for i in range(source.size):
            half = u32(source[i])
            rest = u32(u32(half & u32(0x7FFF)) << u32(13))
            # 2⁻¹⁴ + subnormal, minus 2⁻¹⁴: exact, and no subnormal float32 takes part.
            small = as_bits(as_float(rest + u32(113 << 23)) - as_float(u32(113 << 23)))
            shifted = u32(rest + (u32(224 << 23) if rest >= u32(0x0F800000) else u32(112 << 23)))
            value = shifted if rest >= u32(1 << 23) else small
            bits[i] = u32(u32(u32(half & u32(0x8000)) << u32(16)) | value)
    else:
        for i in range(source.size):
            bits[i] = source[i]


@_compiled
def narrow(bits, kind, target):
    """Round the bits of float32 to nearest, ties to even."""
    as_target = target.dtype.type
    if kind == BFLOAT16:
        for i in range(target.size):
            value = bits[i]
            rounded = u32(u32(value + u32(0x7FFF) + u32(u32(value >> u32(16)) & u32(1))) >> u32(16))
            # Rounding a NaN could carry into infinity, or beyond the sign.
            target[i] = as_target(u32(0x7FC0) if u32(value & u32(0x7FFFFFFF)) > u32(0x7F800000) else rounded)
    elif kind == FLOAT16:
        for i in range(target.size):
            rest = u32(bits[i] & u32(0x7FFFFFFF))
            normal = u32(u32(rest - u32(112 << 23) + u32(0xFFF) + u32(u32(rest >> u32(13)) & u32(1))) >> u32(13))
            # The unit of 0.5 + x is 2⁻²⁴, that of float16's subnormals: the addition rounds to it.
            small = u32(as_bits(as_float(rest) + f32(0.5)) - u32(0x3F000000))
            value = small if rest < u32(113 << 23) else normal
            value = u32(0x7C00) if rest >= u32(0x477FF000) else value
            value = u32(0x7E00) if rest > u32(0x7F800000) else value
            target[i] = as_target(u32(u32(u32(bits[i] >> u32(16)) & u32(0x8000)) | value))
    else:
        for i in range(target.size):
            target[i] = as_target(bits[i])


@_compiled
def convert(source, kind, target, target_kind, bits):
    """Convert between kinds; `bits` is room for float32."""
    if kind == target_kind:
        as_target = target.dtype.type
        for i in range(source.size):
            target[i] = as_target(source[i])
    elif kind == FLOAT32:
        narrow(source, target_kind, target)
    elif target_kind == FLOAT32:
        widen(source, kind, target)
    else:
        widen(source, kind, bits[: source.size])
        narrow(bits, target_kind, target)


@_compiled
def positions(now, kind, found):
    """Find the place of 16-bit weights among all representable values; see low_byte.py."""
    infinity, nan = u16(infinity_of(kind)), u16(0x7FC0) if kind == BFLOAT16 else u16(0x7E00)
    for i in range(now.size):
        bits = u16(now[i])
        rest = u16(bits & u16(0x7FFF))
        signed = u16(u16(0) - rest) if bits > u16(0x7FFF) else rest
        found[i] = nan if rest > infinity else signed


@_compiled
def nearest(low, places, found):
    """Reconstruct the weights with these low bytes that are nearest to `places`; see low_byte.py."""
    as_found = found.dtype.type
    for i in range(low.size):
        place = np.int32(np.int16(places[i]))
        away = np.int32(np.int32(np.int32(place - np.int32(low[i]) + np.int32(128)) & np.int32(0xFF)) - np.int32(128))
        there = np.int32(place - away)
        size = min(abs(there), np.int32(0x7FFF))
        found[i] = as_found(u32(size) | (u32(0x8000) if there < np.int32(0) else u32(0)))


@_compiled
def compare(now, then, kind, flags):
    """Flag the values that differ; return how many do, and how many are not finite now."""
    width = now.dtype.type
    infinity = width(infinity_of(kind))
    magnitude = width(0x7FFFFFFF) if kind == FLOAT32 else width(0x7FFF)
    differing, non_finite = width(0), width(0)
    for i in range(now.size):
        a, b = now[i], then[i]
        rest = width(a & magnitude)
        differs = ((a != b) & (width(width(a | b) & magnitude) != width(0))) | (rest > infinity)
        flags[i] = differs
        differing = width(differing + width(differs))
        non_finite = width(non_finite + width(rest >= infinity))
    return u32(differing), u32(non_finite)


@_compiled
def count_hidden(kept, was, kind, flags):
    """Count the stored values that differ where no flag is set; there, none is NaN."""
    width = kept.dtype.type
    magnitude = width(0x7FFFFFFF) if kind == FLOAT32 else width(0x7FFF)
    hidden = width(0)
    for i in range(kept.size):
        a, b = kept[i], was[i]
        moved = (a != b) & (width(width(a | b) & magnitude) != width(0))
        hidden = width(hidden + width(moved & (flags[i] == u8(0))))
    return u32(hidden)


def _norms(now, then, kind):
    """Return Σ|Δ|² and the bits of max|Δ| over finite Δ, of bfloat16 or float32 weights."""
    to_float = u32(16) if kind == BFLOAT16 else u32(0)
    squares, largest = f64(0), u32(0)
    for i in range(now.size):
        delta = as_float(u32(u32(now[i]) << to_float)) - as_float(u32(u32(then[i]) << to_float))
        size = u32(as_bits(delta) & u32(0x7FFFFFFF))
        finite = size if size < u32(0x7F800000) else u32(0)
        largest = max(largest, finite)
        value = f64(as_float(finite))
        squares += value * value
    return squares, largest


# The sum may be taken in any order, so in several lanes.
norms = _compiled(_norms, fastmath={"reassoc", "contract"})


@_compiled
def distances(now, then, flags, sizes):
    """Write the bits of |Δ| of float32 weights where flagged, 0 elsewhere: infinities of one sign have no distance."""
    for i in range(flags.size):
        size = u32(as_bits(as_float(now[i]) - as_float(then[i])) & u32(0x7FFFFFFF))
        sizes[i] = size if flags[i] != u8(0) else u32(0)


@_compiled
def count_above(sizes, limit):
    """Count |Δ| > limit by their bits; NaN is above everything."""
    count = u32(0)
    for i in range(sizes.size):
        count = u32(count + u32(sizes[i] > limit))
    return count


@_compiled
def flag_above(sizes, limit, flags):
    """Flag |Δ| > limit."""
    for i in range(sizes.size):
        flags[i] = sizes[i] > limit


@_compiled
def compare_low_bytes(now, places, kind, previous, flags):
    """Flag the weights whose low byte differs from the previous one, or that are NaN, and keep the new low bytes."""
    infinity = u16(infinity_of(kind))
    for i in range(now.size):
        low = u8(places[i])
        flags[i] = (low != previous[i]) | (u16(u16(now[i]) & u16(0x7FFF)) > infinity)
        previous[i] = low


@_compiled
def keep(now, previous):
    """Copy float32 weights."""
    for i in range(now.size):
        previous[i] = u32(now[i])


@_compiled
def pack(flags, words):
    """Pack 32 flags of 0 or 1 into each word, eight at a time: the product moves bit 8k to bit 56 + k."""
    eights = flags.view(np.uint64)
    for w in range(words.size):
        word = u64(0)
        for k in range(4):
            eight = u64(u64(eights[4 * w + k] * u64(0x0102040810204080)) >> u64(56))
            word = u64(word | u64(eight << u64(8 * k)))
        words[w] = u32(word)


@_compiled
def ones(word):
    # The compiler knows this idiom and makes it the processor's own instruction.
    word = u32(word - u32(u32(word >> u32(1)) & u32(0x55555555)))
    word = u32(u32(word & u32(0x33333333)) + u32(u32(word >> u32(2)) & u32(0x33333333)))
    word = u32(u32(word + u32(word >> u32(4))) & u32(0x0F0F0F0F))
    return u32(u32(word * u32(0x01010101)) >> u32(24))


@_compiled
def exchange(new, mask):
    """Write the new mask over the old one, and what differs between them over `new`.

    Returns:
        the ones in new, new∖old, old∖new.
    """
    changed, newly, reverted = u32(0), u32(0), u32(0)
    for w in range(new.size):
        changed = u32(changed + ones(new[w]))
        newly = u32(newly + ones(u32(new[w] & u32(~mask[w]))))
        reverted = u32(reverted + ones(u32(mask[w] & u32(~new[w]))))
        flipped = u32(mask[w] ^ new[w])
        mask[w] = new[w]
        new[w] = flipped
    return changed, newly, reverted


@_compiled
def unite(moved, flipped, touched):
    """Add the ones of `moved` and `flipped` to `touched`; return how many these are, and the ones in the union."""
    stepped, ever = u32(0), u32(0)
    for w in range(moved.size):
        step = u32(moved[w] | flipped[w])
        stepped = u32(stepped + ones(step))
        touched[w] = u32(touched[w] | step)
        ever = u32(ever + ones(touched[w]))
    return stepped, ever


@_compiled
def intersect(mask, reference):
    """Count the ones in both."""
    count = u64(0)
    for w in range(mask.size):
        count = u64(count + u64(ones(u32(mask[w] & reference[w]))))
    return count


@_compiled
def measure(current, base, now, then, mask, previous, touched, stored, kept, visible, limit, limits, counts, floats):
    """Measure a chunk that starts at a word.

    Args:
        current, base, mask, previous, touched: as in contract.Segment, as unsigned integers; the last two may be empty.
        now, then: `current` and `base` again where they are kept as they are compared; else empty, of that width.
        stored, kept, visible: kinds of `current` and `base`, and the kind to compare in.
        limit: bits of the criterion's tolerance in float32, −1 for the criterion "bits".
        limits: bits of the tolerances.
        counts, floats: a row of contract.Counts each; added to.
    """
    now_room, then_room = np.empty(SPAN, now.dtype), np.empty(SPAN, now.dtype)
    was = np.empty(SPAN, current.dtype)
    places = np.empty(SPAN, np.uint16)
    flags = np.empty(SPAN, np.uint8)
    words_room, moved_room = np.empty(SPAN // 32, np.uint32), np.empty(SPAN // 32, np.uint32)
    wide, other, sizes = np.empty(SPAN, np.uint32), np.empty(SPAN, np.uint32), np.empty(SPAN, np.uint32)
    for start in range(0, current.size, SPAN):
        stop = min(start + SPAN, current.size)
        n = stop - start
        words = slice(start // 32, (stop + 31) // 32)
        here, there = current[start:stop], base[start:stop]
        seen, before, new = now_room[:n], then_room[:n], words_room[: (n + 31) // 32]
        flags[n:] = 0
        if now.size:
            seen = now[start:stop]
        else:
            convert(here, stored, seen, visible, wide)
        if visible != FLOAT32 and (previous.size or kept == LOW_BYTE):
            positions(seen, visible, places)
        if then.size:
            before = then[start:stop]
        elif kept == LOW_BYTE:
            nearest(there, places, before)
        else:
            convert(there, kept, before, visible, wide)

        differing, non_finite = compare(seen, before, visible, flags)
        counts[NON_FINITE] += non_finite
        if stored != visible and visible != FLOAT32:
            if kept == stored:
                counts[HIDDEN] += count_hidden(here, there, stored, flags)
            else:
                if kept == LOW_BYTE:
                    convert(before, visible, was[:n], stored, wide)
                else:
                    convert(there, kept, was[:n], stored, wide)
                counts[HIDDEN] += count_hidden(here, was[:n], stored, flags)
        if differing:
            if visible == FLOAT16 or limit >= 0 or limits.size:
                widen(seen, visible, wide)
                widen(before, visible, other)
                squares, largest = norms(wide[:n], other[:n], FLOAT32)
            else:
                squares, largest = norms(seen, before, visible)
            floats[SQUARED_NORM] += squares
            floats[MAX_ABS] = max(floats[MAX_ABS], f64(as_float(largest)))
            if limit >= 0 or limits.size:
                distances(wide, other, flags[:n], sizes)
                for t in range(limits.size):
                    counts[FIXED_COLUMNS + t] += count_above(sizes[:n], limits[t])
                if limit >= 0:
                    flag_above(sizes[:n], u32(limit), flags)
        pack(flags, new)
        changed, newly, reverted = exchange(new, mask[words])
        counts[CHANGED] += changed
        counts[NEWLY_CHANGED] += newly
        counts[REVERTED] += reverted

        if previous.size:
            if visible == FLOAT32:
                compare(seen, previous[start:stop], visible, flags)
                keep(seen, previous[start:stop])
            else:
                compare_low_bytes(seen, places, visible, previous[start:stop], flags)
            moved = moved_room[: new.size]
            pack(flags, moved)
            stepped, ever = unite(moved, new, touched[words])
            counts[STEP_CHANGED] += stepped
            counts[TOUCHED] += ever
