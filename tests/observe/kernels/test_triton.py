"""The kernel for GPUs, in Triton's interpreter on the CPU: it agrees with the specification bit for bit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from monitor.observe.kernels.contract import Counts, Kernel, Rules, Segment
from tests.observe.kernels.cases import (
    ALL_KINDS,
    DTYPES,
    Case,
    cases,
    check_agreement,
    check_both_sides_of_a_difference,
    check_state,
    copied,
)

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("with a GPU, test_gpu.py runs the compiled kernel", allow_module_level=True)

from monitor.observe.kernels import triton
from monitor.observe.kernels.launch import TritonKernel

ROUNDING = 1e-5


def interpreted(words: int, blocks: int) -> Kernel:
    """Return the kernel with tiles that suit the interpreter: it takes as long for a large block as for a small one."""
    kernel = TritonKernel(words=words, blocks=blocks)

    def quietly(segments: Sequence[Segment], rules: Rules) -> Counts:
        # The interpreter computes with numpy, which warns of inf − inf.
        with np.errstate(all="ignore"):
            return kernel(segments, rules)

    return quietly


@settings(max_examples=60, deadline=None)
@given(case=cases(sizes=(0, 1, 7, 31, 32, 33, 255, 4097)))
def test_any_weights_give_what_the_specification_gives(case: Case) -> None:
    check_agreement(interpreted(words=64, blocks=2), case, ROUNDING)


@pytest.mark.parametrize(("stored", "base", "visible"), ALL_KINDS)
def test_every_combination_of_dtypes(stored: torch.dtype, base: torch.dtype, visible: torch.dtype) -> None:
    case = Case((4097,), stored, base, visible, criterion=1e-3, observations=1)
    check_agreement(interpreted(words=256, blocks=1), case, ROUNDING)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tolerances_on_both_sides_of_a_difference(dtype: torch.dtype) -> None:
    check_both_sides_of_a_difference(interpreted(words=64, blocks=1), dtype)


@pytest.mark.parametrize("strided", [False, True])
def test_tensors_of_several_tiles_and_a_rest(strided: bool) -> None:
    case = Case((300_033,), strided=strided, references=3, observations=1)
    check_agreement(interpreted(words=2048, blocks=2), case, ROUNDING)


def test_addresses_that_are_not_aligned() -> None:
    case = Case((8192,), references=0)
    segment = case.segments(np.random.default_rng(1))[0]
    whole = torch.zeros(8193, dtype=torch.bfloat16)
    whole[1:] = segment.current
    moved_base = whole.clone()[1:]
    segment = Segment(whole[1:], moved_base, torch.zeros(256, dtype=torch.int32))
    whole[5] += 1.0
    counts = interpreted(words=128, blocks=2)([segment], Rules(torch.bfloat16, Case((1,)).rules.criterion))
    changed = (whole[1:] != moved_base).sum()
    assert counts.integers[0, 0] == changed


@pytest.mark.parametrize("references", [0, 2])
def test_a_whole_model_is_measured_in_a_handful_of_launches(monkeypatch: pytest.MonkeyPatch, references: int) -> None:
    launched: list[int] = []
    measure = TritonKernel._measure

    def counted(self: TritonKernel, launch: Any, *rest: Any) -> None:
        launched.append(len(launch.tiles))
        measure(self, launch, *rest)

    monkeypatch.setattr(TritonKernel, "_measure", counted)
    # 60 matrices, 20 biases, 20 norms.
    segments = Case((4096,) * 60 + (70,) * 40, references=references).segments(np.random.default_rng(1))
    interpreted(words=128, blocks=1)(segments, Case((1,)).rules)
    assert launched == [60, 40]


def test_preparing_measures_nothing() -> None:
    case = Case((33, 8192), references=1)
    segments = case.segments(np.random.default_rng(1))
    before = [copied(segment) for segment in segments]
    TritonKernel(words=64, blocks=2).prepare(segments, case.rules)
    for segment, wanted in zip(segments, before, strict=True):
        check_state(segment, wanted)


@pytest.mark.parametrize("first", [2**31, 2**33])
def test_weights_beyond_what_32_bits_can_count(first: int) -> None:
    """Addresses as if 2³¹ weights lay in front: only the tile is looked at, at its true place in memory."""
    count = 256
    current, base = torch.ones(count, dtype=torch.bfloat16), torch.ones(count, dtype=torch.bfloat16)
    current[[0, 33, 255]] = 2.0
    mask = torch.zeros(count // 32, dtype=torch.int32)
    line = [current.data_ptr() - 2 * first, base.data_ptr() - 2 * first, mask.data_ptr() - 4 * (first // 32), 0, 0]
    # What the tiles before it have counted.
    integers, squares = torch.full((1, 7), first), torch.zeros(1, dtype=torch.float64)
    triton.measure[(1,)](
        torch.tensor([[0, first]]),
        torch.tensor([[*line, first + count, 0]]),
        torch.zeros(1, dtype=torch.int32),
        0,
        integers,
        squares,
        torch.zeros(1, dtype=torch.int64),
        7,
        7,
        STORED=0,
        KEPT=0,
        VISIBLE=0,
        STEPS=False,
        ATOL=False,
        LIMITS=0,
        REFERENCES=0,
        WIDE=False,
        WORDS=16,
        BLOCKS=1,
    )
    assert integers[0, 0] == first + 3
    assert squares[0] == 3.0
    assert mask.tolist() == [1, 2, 0, 0, 0, 0, 0, -(2**31)]
