"""The kernel for GPUs, compiled: it agrees with the specification bit for bit, and lets nobody wait."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, seed, settings

from monitor.observe.kernels import kernel_for, reference
from monitor.observe.kernels.contract import Counts, Segment
from tests.gpu.target import DEVICE, full_or_small, needs_gpu, nobody_waits, skip_below
from tests.observe.kernels.cases import (
    ALL_KINDS,
    DTYPES,
    SIZES,
    Case,
    cases,
    check_agreement,
    check_both_sides_of_a_difference,
    check_counts,
    copied,
    on_device,
)

pytestmark = [pytest.mark.gpu, needs_gpu]
ROUNDING = 1e-5
# Almost every example is compiled anew, which takes seconds: in parts, so that several processes share the work.
PARTS = full_or_small(12, 2)
EXAMPLES = full_or_small(300, 6)


@pytest.mark.parametrize("part", range(PARTS))
def test_any_weights_give_what_the_specification_gives(part: int) -> None:
    from monitor.observe.kernels.gpu import TritonKernel

    @seed(part)
    @settings(max_examples=EXAMPLES // PARTS, deadline=None, database=None)
    @given(case=cases(sizes=(*SIZES, full_or_small(100_003, 2081))))
    def agrees(case: Case) -> None:
        check_agreement(TritonKernel, case, ROUNDING, DEVICE)

    agrees()


@pytest.mark.parametrize(("stored", "base", "visible"), full_or_small(ALL_KINDS, ALL_KINDS[::6]))
def test_every_combination_of_dtypes(stored: torch.dtype, base: torch.dtype, visible: torch.dtype) -> None:
    from monitor.observe.kernels.gpu import TritonKernel

    for criterion, references in itertools.product((None, 1e-3), (0, 3)):
        case = Case((*SIZES, full_or_small(1_300_033, 2081)), stored, base, visible, criterion, references=references)
        check_agreement(TritonKernel, case, ROUNDING, DEVICE)


def test_threads_that_share_a_word_of_a_mask_read_it_before_it_is_written() -> None:
    from monitor.observe.kernels.gpu import TritonKernel

    check_agreement(
        TritonKernel, Case((full_or_small(30_000_003, 4099),), references=0, observations=6), ROUNDING, DEVICE
    )


def test_addresses_that_are_not_aligned() -> None:
    from monitor.observe.kernels.gpu import TritonKernel

    segment = on_device(Case((100_003,)).segments(np.random.default_rng(1))[0], DEVICE)
    shifted = replace(segment, current=torch.cat([segment.current[:1], segment.current])[1:])
    rules = Case((1,)).rules
    expected = reference.measure([copied(segment, DEVICE)], rules)
    check_counts(TritonKernel([shifted], rules)(), expected, ROUNDING)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_on_other_gpus_than_the_current_one() -> None:
    segments = Case((4097, 100_003, 33)).segments(np.random.default_rng(1))
    rules = Case((1,)).rules
    expected = reference.measure([copied(segment) for segment in segments], rules)
    for devices in (("cuda:1",) * 3, ("cuda:0", "cuda:1", "cuda:0")):
        spread = [on_device(segment, device) for segment, device in zip(segments, devices, strict=True)]
        kernel = kernel_for(spread, rules)
        with nobody_waits():
            counts = kernel()
        check_counts(counts, expected, ROUNDING)


def test_stored_dtypes_that_only_torch_can_convert_let_nobody_wait() -> None:
    wide = torch.randn(4097, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    wide_segment = Segment(wide + 1e-4 * (wide > 1), wide, torch.zeros(129, dtype=torch.int32))
    on_host = [wide_segment, *Case((33,), references=0).segments(np.random.default_rng(3))]
    segments = [on_device(segment, DEVICE) for segment in on_host]
    rules = Case((1,)).rules
    expected = reference.measure(on_host, rules)
    kernel = kernel_for(segments, rules)
    with nobody_waits():
        counts = kernel()
    check_counts(counts, expected, ROUNDING)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tolerances_on_both_sides_of_a_difference(dtype: torch.dtype) -> None:
    from monitor.observe.kernels.gpu import TritonKernel

    check_both_sides_of_a_difference(TritonKernel, dtype, DEVICE)


def test_more_than_2_to_the_31_weights_in_a_tensor() -> None:
    """Beyond what 32 bits can address, and beyond what they can count."""
    skip_below(12)
    limit = full_or_small(2**31, 2**12)
    count = limit + 4096
    changed = [0, limit - 1, limit, count - 1]
    counts, (segment,) = measure_zeros([count], changed)
    assert counts.integers[0].tolist() == [4, 0, count - 4, 0, 0, 0, 0]
    assert counts.floats[0].tolist() == [4.0, 1.0]
    words = segment.mask.nonzero().flatten()
    assert words.tolist() == [0, limit // 32 - 1, limit // 32, limit // 32 + 127]
    assert segment.mask[words].tolist() == [1, -(2**31), 1, -(2**31)]


def test_more_than_2_to_the_31_weights_in_total() -> None:
    skip_below(14)
    large = full_or_small(2**30, 2**12)
    sizes = [large + 32, large + 64, large // 4]
    changed = [0, large // 4 - 1]
    counts, _ = measure_zeros(sizes, changed)
    assert counts.integers[:, :3].tolist() == [[2, 0, size - 2] for size in sizes]


def measure_zeros(sizes: list[int], changed: list[int]) -> tuple[Counts, list[Segment]]:
    """Measure tensors of zeros with a few ones in them, that had all changed before."""
    from monitor.observe.kernels.gpu import TritonKernel

    segments = []
    for size in sizes:
        current, base = (torch.zeros(size, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
        current[changed] = 1.0
        segments.append(Segment(current, base, torch.full((size // 32,), -1, dtype=torch.int32, device=DEVICE)))
    return TritonKernel(segments, Case((1,), tolerances=()).rules)(), segments
