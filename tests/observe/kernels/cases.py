"""Weights that go wrong easily, drawn by hypothesis, and the comparison of a kernel with the specification."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from hypothesis import strategies as st

from monitor.observe.bits import pack
from monitor.observe.criterion import Criterion
from monitor.observe.kernels import reference
from monitor.observe.kernels.contract import (
    CHANGED,
    FIXED_COLUMNS,
    MAX_ABS,
    SQUARED_NORM,
    STEP_CHANGED,
    Bind,
    Counts,
    Kernel,
    Rules,
    Segment,
)
from monitor.observe.kernels.low_byte import low_bytes, previous_weights

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Stored, base, visible; uint8 stands for low bytes.
ALL_KINDS = [
    (stored, base, visible)
    for stored, base, visible in itertools.product(DTYPES, (*DTYPES, torch.uint8), DTYPES)
    if base != torch.uint8 or visible != torch.float32
]
SIZES = (0, 1, 7, 31, 32, 33, 255, 4097)

_BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
# Zeros, ones, smallest and largest subnormal, smallest normal, largest finite, infinity, NaN with two payloads; as bits
# without sign.
_SPECIAL = {
    torch.bfloat16: (0, 0x3F80, 1, 0x7F, 0x80, 0x7F7F, 0x7F80, 0x7FC0, 0x7F81),
    torch.float16: (0, 0x3C00, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0x7E00, 0x7C01),
    # With the float32 values where rounding to bfloat16 and float16 ties, overflows, or becomes subnormal.
    torch.float32: (
        *(0, 0x3F800000, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x7F800001, 0x7FFFFFFF),
        *(0x3F808000, 0x3F818000, 0x3F807FFF, 0x7F7F8000, 0x7F7F7FFF),
        *(0x3F801000, 0x3F803000, 0x477FEFFF, 0x477FF000, 0x38800000, 0x387FFFFF, 0x33000000, 0x33000001, 0x32FFFFFF),
    ),
}


def bits_of(weights: torch.Tensor) -> torch.Tensor:
    return weights.view(_BITS[weights.dtype])


def from_bits(bits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return bits.to(_BITS[dtype]).view(dtype)


def random_weights(count: int, dtype: torch.dtype, rng: np.random.Generator) -> torch.Tensor:
    """Ordinary weights of several magnitudes, any bit pattern, and special ones."""
    ordinary = torch.from_numpy(rng.standard_normal(count) * 10.0 ** rng.integers(-9, 2, count)).to(dtype)
    width = 16 if dtype.itemsize == 2 else 32
    any_bits = from_bits(torch.from_numpy(rng.integers(-(2 ** (width - 1)), 2 ** (width - 1), count)), dtype)
    special = torch.from_numpy(rng.choice(np.array(_SPECIAL[dtype]), count))
    signs = torch.from_numpy(rng.integers(0, 2, count)) * -(2 ** (width - 1))
    kind = torch.from_numpy(rng.random(count))
    weights = torch.where(kind < 0.7, ordinary, any_bits)
    return torch.where(kind > 0.85, from_bits(special + signs, dtype), weights)


def moved(weights: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Most weights stay; others go to a neighbour, change sign, move a little, or become anything."""
    count = weights.numel()
    width = 8 * weights.element_size()
    steps = torch.from_numpy(rng.choice(np.array([-1, 1, -127, 128, 129, 256]), count))
    bits = bits_of(weights).to(torch.int64)
    shifted = bits + torch.where((bits & (2 ** (width - 1) - 1)) < 300, 1, steps)
    wrapped = ((shifted + 2 ** (width - 1)) % 2**width) - 2 ** (width - 1)
    kind = torch.from_numpy(rng.random(count))
    result = torch.where(kind < 0.6, weights, from_bits(wrapped, weights.dtype))
    result = torch.where(kind > 0.80, -weights, result)
    result = torch.where(kind > 0.85, (weights.double() * 1.01).to(weights.dtype), result)
    return torch.where(kind > 0.95, random_weights(count, weights.dtype, rng), result)


@dataclass(frozen=True)
class Case:
    """Segments and rules, and how often the weights move and are measured."""

    sizes: tuple[int, ...]
    stored: torch.dtype = torch.bfloat16
    base: torch.dtype = torch.bfloat16
    visible: torch.dtype = torch.bfloat16
    criterion: float | None = None
    tolerances: tuple[float, ...] = (1e-5, 1e-3)
    references: int = 1
    step_masks: bool = True
    strided: bool = False
    observations: int = 2
    seed: int = 7

    @property
    def rules(self) -> Rules:
        return Rules(self.visible, Criterion(self.criterion), self.tolerances)

    def segments(self, rng: np.random.Generator) -> list[Segment]:
        return [self._segment(size, rng) for size in self.sizes]

    def _segment(self, size: int, rng: np.random.Generator) -> Segment:
        start = random_weights(size, self.stored, rng)
        base = low_bytes(start, self.visible) if self.base == torch.uint8 else start.to(self.base)
        current = start.clone()
        if self.strided and size:
            # Every other column of a wider matrix, transposed: their order in memory is another one than here.
            rows = next(rows for rows in (17, 5, 3, 1) if size % rows == 0)
            current = torch.zeros(size // rows, 2 * rows, dtype=self.stored)[:, ::2].t()
            current.copy_(start.view(rows, size // rows))
        return Segment(
            current=current,
            base=base,
            mask=_random_words(size, rng),
            previous=previous_weights(start, self.visible) if self.step_masks else None,
            touched=_random_words(size, rng) if self.step_masks else None,
            references=tuple(_random_words(size, rng) for _ in range(self.references)),
        )


def _random_words(size: int, rng: np.random.Generator) -> torch.Tensor:
    return pack(torch.from_numpy(rng.random(size) < 0.5))


def cases(sizes: tuple[int, ...] = SIZES) -> st.SearchStrategy[Case]:
    def base_of(visible: torch.dtype) -> st.SearchStrategy[torch.dtype]:
        return st.sampled_from(DTYPES if visible == torch.float32 else (*DTYPES, torch.uint8))

    tolerance = st.sampled_from((0.0, 1e-8, 1e-5, 1e-3, 0.0078125, 1.0))
    return st.sampled_from(DTYPES).flatmap(
        lambda visible: st.builds(
            Case,
            sizes=st.lists(st.sampled_from(sizes), min_size=1, max_size=3).map(tuple),
            stored=st.sampled_from(DTYPES),
            base=base_of(visible),
            visible=st.just(visible),
            criterion=st.none() | tolerance,
            tolerances=st.lists(tolerance, max_size=3, unique=True).map(tuple),
            references=st.sampled_from((0, 1, 2, 3, 5, 17)),
            step_masks=st.booleans(),
            strided=st.booleans(),
            observations=st.integers(1, 3),
            seed=st.integers(0, 2**32 - 1),
        )
    )


def copied(segment: Segment, device: str = "cpu") -> Segment:
    """Return the segment with state of its own; on the CPU, what is only read is shared."""

    def copy(words: torch.Tensor | None) -> torch.Tensor | None:
        return None if words is None else words.to(device, copy=True)

    return replace(
        segment,
        base=segment.base.to(device),
        mask=segment.mask.to(device, copy=True),
        previous=copy(segment.previous),
        touched=copy(segment.touched),
        references=tuple(words.to(device) for words in segment.references),
    )


def on_device(segment: Segment, device: str) -> Segment:
    """Return the segment on another device, `current` with the same strides."""
    current = torch.empty_strided(
        segment.current.shape, segment.current.stride(), dtype=segment.current.dtype, device=device
    )
    moved_over = copied(segment, device)
    return replace(moved_over, current=current.copy_(segment.current))


def check_agreement(bind: Bind, case: Case, tolerance: float, device: str = "cpu") -> None:
    """Measure moving weights with a kernel and with the specification; `tolerance` is relative, for Σ|Δ|²."""
    rng = np.random.default_rng(case.seed)
    expected = case.segments(rng)
    segments = [copied(segment) for segment in expected]
    if device != "cpu":
        segments = [on_device(segment, device) for segment in expected]
    kernel = bind(segments, case.rules)
    for _ in range(case.observations):
        for segment, wanted in zip(segments, expected, strict=True):
            live = wanted.current
            live.copy_(moved(live.reshape(-1).clone(), rng).view(live.shape))
            if segment.current is not live:
                segment.current.copy_(live)
        before = [bits_of(segment.current).clone() for segment in segments]
        check_counts(kernel(), reference.measure(expected, case.rules), tolerance)
        for segment, wanted, bits in zip(segments, expected, before, strict=True):
            check_state(segment, wanted)
            assert torch.equal(bits_of(segment.current), bits), "live weights are only read"


def check_both_sides_of_a_difference(bind: Bind, dtype: torch.dtype, device: str = "cpu") -> None:
    """Count with tolerances just below, at, and just above the difference of two neighbours, as it is in float32."""
    base = torch.tensor([1.0, -1.0, 0.0, 3.0, 2.0**-126, 1e-2], dtype=dtype)
    stepped = from_bits(bits_of(base) + 1, dtype)
    for before, after in zip(base.split(1), stepped.split(1), strict=True):
        apart = (after.float() - before.float()).abs()
        sides = [torch.nextafter(apart, torch.tensor(limit)).item() for limit in (0.0, np.inf)]
        tolerances = (sides[0], apart.item(), sides[1])
        for criterion, changed in ((None, 1), *zip(tolerances, (1, 0, 0), strict=True)):
            words = [torch.zeros(1, dtype=torch.int32, device=device) for _ in range(2)]
            previous = previous_weights(before, dtype).to(device)
            segment = Segment(after.to(device), before.to(device), words[0], previous, words[1])
            counts = bind([segment], Rules(dtype, Criterion(criterion), tolerances))().integers[0].tolist()
            assert counts[CHANGED] == changed, (before, criterion)
            assert counts[STEP_CHANGED] == 1, "steps are compared by bits"
            assert counts[FIXED_COLUMNS:] == [1, 0, 0], (before, tolerances)
            assert (words[0].item(), words[1].item()) == (changed, 1)


def check_counts(found: Counts, wanted: Counts, tolerance: float) -> None:
    assert found.integers.tolist() == wanted.integers.tolist()
    assert found.floats[:, MAX_ABS].tolist() == wanted.floats[:, MAX_ABS].tolist()
    np.testing.assert_allclose(
        found.floats[:, SQUARED_NORM].cpu(), wanted.floats[:, SQUARED_NORM], rtol=tolerance, atol=0
    )


def check_state(found: Segment, wanted: Segment) -> None:
    assert torch.equal(found.mask.cpu(), wanted.mask)
    if wanted.touched is not None and found.touched is not None:
        assert torch.equal(found.touched.cpu(), wanted.touched)
    if wanted.previous is not None and found.previous is not None:
        assert torch.equal(_without_payload(found.previous.cpu()), _without_payload(wanted.previous))


def _without_payload(weights: torch.Tensor) -> torch.Tensor:
    return weights if weights.dtype == torch.uint8 else torch.where(weights.isnan(), 1e30, weights)


def bind_reference(segments: Sequence[Segment], rules: Rules) -> Kernel:
    """Return the specification as a kernel."""
    return partial(reference.measure, segments, rules)
