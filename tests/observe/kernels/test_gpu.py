"""The kernel for GPUs, compiled: it agrees with the specification bit for bit, and lets nobody wait."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings

from tests.observe.kernels.cases import ALL_KINDS, SIZES, Case, cases, check_agreement

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
ROUNDING = 1e-5


@settings(max_examples=300, deadline=None)
@given(case=cases(sizes=(*SIZES, 100_003)))
def test_any_weights_give_what_the_specification_gives(case: Case) -> None:
    from monitor.observe.kernels.launch import TritonKernel

    check_agreement(TritonKernel(), case, ROUNDING, "cuda")


@pytest.mark.parametrize(("stored", "base", "visible"), ALL_KINDS)
def test_every_combination_of_dtypes(stored: torch.dtype, base: torch.dtype, visible: torch.dtype) -> None:
    from monitor.observe.kernels.launch import TritonKernel

    for criterion, references in itertools.product((None, 1e-3), (0, 3)):
        case = Case((*SIZES, 1_300_033), stored, base, visible, criterion, references=references)
        check_agreement(TritonKernel(), case, ROUNDING, "cuda")


def test_more_than_2_to_the_31_weights_in_a_tensor() -> None:
    from monitor.observe.kernels.contract import Segment, word_count
    from monitor.observe.kernels.launch import TritonKernel

    count = 2**31 + 4097
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB of GPU memory")
    base = torch.zeros(count, dtype=torch.bfloat16, device="cuda")
    current = base.clone()
    changed = [0, 2**31 - 1, 2**31, count - 1]
    current[changed] = 1.0
    mask = torch.zeros(word_count(count), dtype=torch.int32, device="cuda")
    counts = TritonKernel()([Segment(current, base, mask)], Case((1,), tolerances=()).rules)
    assert counts.integers[0, 0].item() == len(changed)
    assert counts.floats[0].tolist() == [4.0, 1.0]
    assert mask.count_nonzero().item() == len(changed)
