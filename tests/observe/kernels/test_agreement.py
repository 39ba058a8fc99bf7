"""The kernels for the CPU agree with the specification bit for bit, Σ|Δ|² to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from monitor.observe.criterion import Criterion
from monitor.observe.kernels import numpy_loops, reference
from monitor.observe.kernels.contract import Kernel, Rules, Segment, word_count
from monitor.observe.kernels.cpu import CpuKernel
from monitor.observe.kernels.streamed_base import StreamedBase
from tests.observe.kernels.cases import (
    ALL_KINDS,
    DTYPES,
    SIZES,
    Case,
    cases,
    check_agreement,
    check_both_sides_of_a_difference,
    check_counts,
    check_state,
    copied,
)

# Relative, of Σ|Δ|² in float64.
ROUNDING = 1e-12


@pytest.fixture(scope="module", params=["numpy", "numba", "streamed"])
def implementation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def kernel(implementation: str) -> Kernel:
    if implementation == "numpy":
        return CpuKernel(numpy_loops)
    if implementation == "streamed":
        # Pieces of 96 weights and more: most of the drawn tensors are cut, or share a piece.
        return StreamedBase(lambda segments, rules: CpuKernel(numpy_loops), piece_bytes=1024)
    return numba_kernel()


def numba_kernel() -> Kernel:
    pytest.importorskip("numba")
    from monitor.observe.kernels import numba_loops

    return CpuKernel(numba_loops)


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_any_weights_give_what_the_specification_gives(kernel: Kernel, case: Case) -> None:
    check_agreement(kernel, case, ROUNDING)


@pytest.mark.parametrize(("stored", "base", "visible"), ALL_KINDS)
def test_every_combination_of_dtypes(
    kernel: Kernel, stored: torch.dtype, base: torch.dtype, visible: torch.dtype
) -> None:
    for criterion in (None, 1e-3):
        case = Case(SIZES, stored, base, visible, criterion)
        check_agreement(kernel, case, ROUNDING)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tolerances_on_both_sides_of_a_difference(kernel: Kernel, dtype: torch.dtype) -> None:
    check_both_sides_of_a_difference(reference.measure, dtype)
    check_both_sides_of_a_difference(kernel, dtype)


@pytest.mark.parametrize(
    "case",
    [
        Case((1_300_033,), references=2, observations=1),
        Case((1_300_041,), references=17, observations=1, strided=True),
        Case((600_033,), torch.float32, torch.float32, torch.bfloat16, 1e-3, references=1),
        Case((600_033,), torch.float32, torch.uint8, torch.float16, references=1),
        Case((600_033,), torch.float16, torch.float16, torch.float32, references=0),
    ],
    ids=["bfloat16", "strided", "float32", "low-bytes", "visible-float32"],
)
def test_tensors_of_several_chunks(kernel: Kernel, case: Case) -> None:
    check_agreement(kernel, case, ROUNDING)


def test_stored_dtypes_that_only_torch_can_convert(kernel: Kernel) -> None:
    generator = torch.Generator().manual_seed(3)
    wide = torch.randn(4097, dtype=torch.float64, generator=generator)
    segments = [
        Segment(
            wide + 1e-4 * (wide > 1), wide, torch.zeros(129, dtype=torch.int32), references=(torch.ones(129).int(),)
        ),
        Case((33,)).segments(np.random.default_rng(3))[0],
    ]
    rules = Rules(torch.bfloat16, Criterion(), (1e-5,))
    expected = [copied(segment) for segment in segments]
    check_counts(kernel(segments, rules), reference.measure(expected, rules), ROUNDING)
    for segment, wanted in zip(segments, expected, strict=True):
        check_state(segment, wanted)


@pytest.mark.parametrize("name", ["numpy", "numba", "streamed"])
def test_more_than_2_to_the_31_weights_in_a_tensor(name: str) -> None:
    """Beyond what 32 bits can address, and beyond what they can count."""
    kernels = {"numpy": lambda: CpuKernel(numpy_loops), "numba": numba_kernel}
    kernel = kernels[name]() if name in kernels else StreamedBase(lambda segments, rules: numba_kernel())
    count = 2**31 + 4096
    # numpy's zeros take no memory where they are never written.
    current, base = (torch.from_numpy(np.zeros(count, np.int16)).view(torch.bfloat16) for _ in range(2))
    changed = [0, 2**31 - 1, 2**31, count - 1]
    current[changed] = 1.0
    mask = torch.full((word_count(count),), -1, dtype=torch.int32)
    counts = kernel([Segment(current, base, mask)], Rules(torch.bfloat16, Criterion()))
    assert counts.integers[0].tolist() == [4, 0, count - 4, 0, 0, 0, 0]
    assert counts.floats[0].tolist() == [4.0, 1.0]
    words = mask.nonzero().flatten()
    assert {int(word): int(mask[word]) for word in words} == {
        0: 1,
        2**26 - 1: -(2**31),
        2**26: 1,
        2**26 + 127: -(2**31),
    }
