"""For weights on a GPU: the whole model in a handful of launches, over tables of addresses.

Integer work on bit patterns, because rounding, NaN and subnormals must come out as the specification has them on every
device; floating point only to compare float32 and for Δ. One program measures one tile of a segment. Its counts stay in
registers and are added once to the segment's row.

Bytes per bfloat16 weight: 2 (current) + 2 (base) + 2 × 1/8 (mask), with step masks 2 × 1 (previous) + 2 × 1/8 (touched)
more, and 1/8 per reference. While these come from the memory of an H100, it has time for about 65 instructions per
weight, and for half as many on integers; the default case takes 37 to 40, 23 to 25 of them on integers and the like, in
at most 112 registers. tests/benchmarks/time_model.py has it for other GPUs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from monitor.observe.kernels import contract, kinds

BFLOAT16 = tl.constexpr(kinds.BFLOAT16)
FLOAT16 = tl.constexpr(kinds.FLOAT16)
FLOAT32 = tl.constexpr(kinds.FLOAT32)
LOW_BYTE = tl.constexpr(kinds.LOW_BYTE)
# Columns of the table of segments; the addresses of the reference masks follow.
CURRENT = tl.constexpr(0)
BASE = tl.constexpr(1)
MASK = tl.constexpr(2)
PREVIOUS = tl.constexpr(3)
TOUCHED = tl.constexpr(4)
COUNT = tl.constexpr(5)
ROW = tl.constexpr(6)
REFERENCE = tl.constexpr(7)
# Columns of contract.Counts.integers.
CHANGED_COLUMN = tl.constexpr(contract.CHANGED)
NEWLY_CHANGED_COLUMN = tl.constexpr(contract.NEWLY_CHANGED)
REVERTED_COLUMN = tl.constexpr(contract.REVERTED)
STEP_CHANGED_COLUMN = tl.constexpr(contract.STEP_CHANGED)
TOUCHED_COLUMN = tl.constexpr(contract.TOUCHED)
HIDDEN_COLUMN = tl.constexpr(contract.HIDDEN)
NON_FINITE_COLUMN = tl.constexpr(contract.NON_FINITE)
FIXED_COLUMNS = tl.constexpr(contract.FIXED_COLUMNS)


@triton.jit
def as_float(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def as_bits(value):
    return value.to(tl.int32, bitcast=True)


@triton.jit
def address(table, column: tl.constexpr, KIND: tl.constexpr):
    """Return the address in a column as a pointer to bit patterns of this kind."""
    raw = tl.load(table + column)
    if KIND == LOW_BYTE:
        return raw.to(tl.pointer_type(tl.uint8))
    elif KIND == FLOAT32:
        return raw.to(tl.pointer_type(tl.int32))
    else:
        return raw.to(tl.pointer_type(tl.int16))


@triton.jit
def widen(bits, KIND: tl.constexpr):
    """Convert to the bits of float32, exactly."""
    if KIND == BFLOAT16:
        return bits << 16
    elif KIND == FLOAT16:
        rest = (bits & 0x7FFF) << 13
        # 2⁻¹⁴ + subnormal, minus 2⁻¹⁴: exact, and no subnormal float32 takes part.
        small = as_bits(as_float(rest + 0x38800000) - 0.00006103515625)
        shifted = rest + tl.where(rest >= 0x0F800000, 0x70000000, 0x38000000)
        return ((bits & 0x8000) << 16) | tl.where(rest >= 0x00800000, shifted, small)
    else:
        return bits


@triton.jit
def narrow(bits, KIND: tl.constexpr):
    """Round the bits of float32 to nearest, ties to even."""
    rest = bits & 0x7FFFFFFF
    sign = (bits >> 16) & 0x8000
    if KIND == BFLOAT16:
        # Rounding a NaN could carry into infinity, or beyond the sign.
        return sign | tl.where(rest > 0x7F800000, 0x7FC0, (rest + 0x7FFF + ((rest >> 16) & 1)) >> 16 & 0x7FFF)
    elif KIND == FLOAT16:
        normal = (rest - 0x38000000 + 0xFFF + ((rest >> 13) & 1)) >> 13
        # The unit of 0.5 + x is 2⁻²⁴, that of float16's subnormals: the addition rounds to it.
        small = as_bits(as_float(rest) + 0.5) - 0x3F000000
        value = tl.where(rest < 0x38800000, small, normal)
        value = tl.where(rest >= 0x477FF000, 0x7C00, value)
        return sign | tl.where(rest > 0x7F800000, 0x7E00, value)
    else:
        return bits


@triton.jit
def convert(bits, FROM: tl.constexpr, TO: tl.constexpr):
    if FROM == TO:
        return bits
    else:
        return narrow(widen(bits, FROM), TO)


@triton.jit
def load(pointer, offsets, inside, KIND: tl.constexpr, ALL: tl.constexpr):
    """Load bit patterns as int32 without sign extension; 0 outside."""
    bits = tl.load(pointer + offsets) if ALL else tl.load(pointer + offsets, mask=inside, other=0)
    if KIND == FLOAT32:
        return bits
    elif KIND == LOW_BYTE:
        return bits.to(tl.int32)
    else:
        return bits.to(tl.int32) & 0xFFFF


@triton.jit
def store(pointer, offsets, values, inside, ALL: tl.constexpr):
    if ALL:
        tl.store(pointer + offsets, values)
    else:
        tl.store(pointer + offsets, values, mask=inside)


@triton.jit
def values(bits, KIND: tl.constexpr):
    return as_float(widen(bits, KIND))


@triton.jit
def is_nan(value):
    return value != value  # noqa: PLR0124


@triton.jit
def position(bits, nan, KIND: tl.constexpr):
    """Find the place of 16-bit weights among all representable values; see low_byte.py."""
    rest = bits & 0x7FFF
    return tl.where(nan, 0x7FC0 if KIND == BFLOAT16 else 0x7E00, tl.where(bits > 0x7FFF, -rest, rest))


@triton.jit
def nearest(low, place):
    """Reconstruct the weights with these low bytes that are nearest to `place`; see low_byte.py."""
    found = place - (((place - low + 128) & 0xFF) - 128)
    size = tl.minimum(tl.abs(found), 0x7FFF)
    return tl.where(found < 0, size | 0x8000, size)


@triton.jit
def pack(flags, WORDS: tl.constexpr):
    """Pack flags of shape (2 × WORDS, 16) into int32 words."""
    # A thread has all 16, so that each has a constant of its own to add.
    halves = tl.sum(tl.where(flags, (1 << tl.arange(0, 16))[None, :], 0), axis=1)
    return tl.sum(tl.reshape(halves, (WORDS, 2)) << (16 * tl.arange(0, 2))[None, :], axis=1)


@triton.jit
def gather(lanes, WIDE: tl.constexpr):
    """Add up along rows where a thread has a whole row of its own, so that it keeps one sum instead of 16."""
    return tl.sum(lanes, axis=1) if WIDE else lanes


@triton.jit
def power_of_two(exponent):
    """Return 2^exponent in float32, for −126 … 127."""
    return as_float((exponent + 127) << 23)


@triton.jit
def sum_of_squares(sizes, largest):
    """Add up the squares of float32 along rows of 16, of which `largest` is each row's largest, to a relative 2⁻³⁰.

    In integers, because many GPUs have one unit for float64 where they have 64 for float32: each size as a multiple of
    2⁻²⁹ of the largest one's power of two, which is exact from 2⁻⁶ of the largest on. The squares fit into 64 bits.
    """
    exponent = as_bits(largest) >> 23
    # Two factors, as one would leave float32 where the largest is below 2⁻⁹⁷.
    half = exponent // 2
    scaled = sizes * power_of_two(126 - half)[:, None] * power_of_two(30 + half - exponent)[:, None]
    multiples = scaled.to(tl.uint32).to(tl.uint64)
    unit_squared = ((1023 + 2 * (exponent - 156)).to(tl.int64) << 52).to(tl.float64, bitcast=True)
    return tl.sum(multiples * multiples, axis=1).to(tl.float64) * unit_squared


@triton.jit
def ones(words):
    # Bits added in pairs, fours, eights (Warren, Hacker's Delight, 5-1); what arithmetic shifts drag in is cleared.
    words = words - ((words >> 1) & 0x55555555)
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    return ((words * 0x01010101) >> 24) & 0xFF


@triton.jit
def add(pointer, count):
    tl.atomic_add(pointer, count.to(tl.int64), mask=count != 0, sem="relaxed")


@triton.jit
def measure(
    tiles,
    table,
    limits,
    limit,
    integers,
    squares,
    largest,
    table_columns,
    count_columns,
    STORED: tl.constexpr,
    KEPT: tl.constexpr,
    VISIBLE: tl.constexpr,
    STEPS: tl.constexpr,
    ATOL: tl.constexpr,
    LIMITS: tl.constexpr,
    REFERENCES: tl.constexpr,
    WIDE: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """Measure the tile that `tiles` names for this program, in at most BLOCKS blocks of WORDS × 32 weights.

    Args:
        tiles: int64 (programs, 2): line of `table`, and first weight, a multiple of 32.
        table: int64 (lines, table_columns): addresses, number of weights, row of the counts; see the constants.
        limits: int32 (LIMITS,): bits of the tolerances in float32.
        limit: bits of the criterion's tolerance; read where ATOL.
        integers: int64 (rows, count_columns), as contract.Counts.integers. Added to.
        squares: float64 (rows,): Σ|Δ|². Added to.
        largest: int64 (rows,): bits of max|Δ| in float32. Raised.
        WIDE: every address is a multiple of 16 bytes. Only full blocks are measured.
    """
    PREVIOUS_KIND: tl.constexpr = FLOAT32 if VISIBLE == FLOAT32 else LOW_BYTE
    program = tl.program_id(0).to(tl.int64)
    table += tl.load(tiles + 2 * program) * table_columns
    first = tl.multiple_of(tl.load(tiles + 2 * program + 1), 32)
    row = tl.load(table + ROW)
    first_word = first // 32

    current = address(table, CURRENT, STORED) + first
    base = address(table, BASE, KEPT) + first
    mask = address(table, MASK, FLOAT32) + first_word
    previous = address(table, PREVIOUS, PREVIOUS_KIND) + first
    touched = address(table, TOUCHED, FLOAT32) + first_word
    if WIDE:
        current, base = tl.multiple_of(current, 16), tl.multiple_of(base, 16)
        mask, touched, previous = tl.multiple_of(mask, 4), tl.multiple_of(touched, 4), tl.multiple_of(previous, 16)
    count = tl.minimum(tl.load(table + COUNT) - first, BLOCKS * WORDS * 32).to(tl.int32)
    blocks = count // (WORDS * 32) if WIDE else tl.cdiv(count, WORDS * 32)

    word = tl.arange(0, WORDS)
    half = tl.arange(0, 2 * WORDS)
    weight = half[:, None] * 16 + tl.arange(0, 16)[None, :]

    changed = tl.zeros([WORDS], tl.int32)
    newly = tl.zeros([WORDS], tl.int32)
    reverted = tl.zeros([WORDS], tl.int32)
    stepped = tl.zeros([WORDS], tl.int32)
    ever = tl.zeros([WORDS], tl.int32)
    # Register pressure bounds occupancy, hence loads in flight.
    hidden = gather(tl.zeros([2 * WORDS, 16], tl.int32), WIDE)
    non_finite = gather(tl.zeros([2 * WORDS, 16], tl.int32), WIDE)
    square = gather(tl.zeros([2 * WORDS, 16], tl.float64), WIDE)
    maximum = gather(tl.zeros([2 * WORDS, 16], tl.float32), WIDE)
    if LIMITS > 0:
        LIMIT_LANES: tl.constexpr = triton.next_power_of_2(LIMITS)
        limit_lane = tl.arange(0, LIMIT_LANES)[None, :]
        above = tl.zeros([2 * WORDS, LIMIT_LANES], tl.int32)
    if REFERENCES > 0:
        LANES: tl.constexpr = triton.next_power_of_2(REFERENCES)
        lane = tl.arange(0, LANES)
        references = tl.load(table + REFERENCE + lane, mask=lane < REFERENCES, other=0)
        references = references.to(tl.pointer_type(tl.int32)) + first_word
        shared = tl.zeros([WORDS, LANES], tl.int32)

    for block in range(blocks):
        here = block * (WORDS * 32) + weight
        there = block * WORDS + word
        inside = here < count
        some = there * 32 < count

        kept = load(current, here, inside, STORED, WIDE)
        before = load(base, here, inside, KEPT, WIDE)
        now = convert(kept, STORED, VISIBLE)
        value = values(now, VISIBLE)
        if VISIBLE != FLOAT32:
            place = position(now, is_nan(value), VISIBLE)
        if KEPT == LOW_BYTE:
            then = nearest(before, place)
        else:
            then = convert(before, KEPT, VISIBLE)
        origin = values(then, VISIBLE)
        # By value: −0 = +0, and NaN differs from everything.
        differs = value != origin
        non_finite += gather(tl.where(tl.abs(value) < float("inf"), 0, 1), WIDE)
        if STORED != VISIBLE and VISIBLE != FLOAT32:
            if KEPT == LOW_BYTE:
                was = convert(then, VISIBLE, STORED)
            else:
                was = convert(before, KEPT, STORED)
            moved_below = (values(kept, STORED) != values(was, STORED)) & (differs == 0)
            hidden += gather(moved_below.to(tl.int32), WIDE)

        distance = tl.abs(value - origin)
        # inf − inf is NaN, which is not less either.
        finite = tl.where(distance < float("inf"), distance, 0.0)
        if WIDE:
            most = tl.max(finite, axis=1)
            square += sum_of_squares(finite, most)
        else:
            most = finite
            # In float64: the square of a small float32 is 0 in float32.
            exact = finite.to(tl.float64)
            square += exact * exact
        maximum = tl.maximum(maximum, most)
        size = tl.where(differs, as_bits(distance), 0)
        if LIMITS > 0:
            for i in tl.static_range(LIMITS):
                more = tl.sum((size > tl.load(limits + i)).to(tl.int32), axis=1)
                above += tl.where(limit_lane == i, more[:, None], 0)

        new = pack(size > limit if ATOL else differs, WORDS)
        old = load(mask, there, some, FLOAT32, WIDE)
        # Several threads may load a word that one of them writes.
        tl.debug_barrier()
        changed += ones(new)
        newly += ones(new & ~old)
        reverted += ones(old & ~new)
        store(mask, there, new, some, WIDE)
        if REFERENCES > 0:
            wanted = some[:, None] & (lane < REFERENCES)[None, :]
            theirs = tl.load(references[None, :] + there[:, None], mask=wanted, other=0)
            shared += ones(new[:, None] & theirs)

        if STEPS:
            last = load(previous, here, inside, PREVIOUS_KIND, WIDE)
            if VISIBLE == FLOAT32:
                moved = value != as_float(last)
                store(previous, here, now, inside, WIDE)
            else:
                low = place & 0xFF
                moved = (low != last) | (is_nan(value))
                store(previous, here, low.to(tl.uint8), inside, WIDE)
            step = pack(moved, WORDS) | (new ^ old)
            union = load(touched, there, some, FLOAT32, WIDE) | step
            stepped += ones(step)
            ever += ones(union)
            store(touched, there, union, some, WIDE)

    counts = integers + row * count_columns
    add(counts + CHANGED_COLUMN, tl.sum(changed))
    add(counts + NEWLY_CHANGED_COLUMN, tl.sum(newly))
    add(counts + REVERTED_COLUMN, tl.sum(reverted))
    if STEPS:
        add(counts + STEP_CHANGED_COLUMN, tl.sum(stepped))
        add(counts + TOUCHED_COLUMN, tl.sum(ever))
    if STORED != VISIBLE and VISIBLE != FLOAT32:
        add(counts + HIDDEN_COLUMN, tl.sum(hidden))
    add(counts + NON_FINITE_COLUMN, tl.sum(non_finite))
    total = tl.sum(square)
    tl.atomic_add(squares + row, total, mask=total != 0, sem="relaxed")
    tl.atomic_max(largest + row, as_bits(tl.max(maximum)).to(tl.int64), sem="relaxed")
    if LIMITS > 0:
        lanes = tl.arange(0, LIMIT_LANES)
        at_limits = counts + FIXED_COLUMNS
        tl.atomic_add(at_limits + lanes, tl.sum(above, axis=0).to(tl.int64), mask=lanes < LIMITS, sem="relaxed")
    if REFERENCES > 0:
        sums = tl.sum(shared, axis=0).to(tl.int64)
        tl.atomic_add(counts + FIXED_COLUMNS + LIMITS + lane, sums, mask=lane < REFERENCES, sem="relaxed")
