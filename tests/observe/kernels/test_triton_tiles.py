"""The kernel for GPUs, in Triton's interpreter on the CPU: it agrees with the specification bit for bit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from monitor.observe.kernels.contract import CHANGED, Bind, Counts, Kernel, Rules, Segment
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

from monitor.observe.kernels import triton_tiles
from monitor.observe.kernels.gpu import TritonKernel

ROUNDING = 1e-5


def interpreted(words: int, blocks: int) -> Bind:
    """Bind with tiles that suit the interpreter: it takes as long for a large block as for a small one."""

    def bind(segments: Sequence[Segment], rules: Rules) -> Kernel:
        kernel = TritonKernel(segments, rules, words=words, blocks=blocks)

        def quietly() -> Counts:
            # The interpreter computes with numpy, which warns of inf − inf.
            with np.errstate(all="ignore"):
                return kernel()

        return quietly

    return bind


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
    counts = interpreted(words=128, blocks=2)([segment], Rules(torch.bfloat16, Case((1,)).rules.criterion))()
    changed = (whole[1:] != moved_base).sum()
    assert counts.integers[0, CHANGED] == changed


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the numbers of tiles that are launched from now on."""
    found: list[int] = []
    measure = triton_tiles.measure

    class Counting:
        def __getitem__(self, grid: tuple[int]) -> Any:
            found.append(grid[0])
            return measure[grid]

    monkeypatch.setattr(triton_tiles, "measure", Counting())
    return found


@pytest.mark.parametrize("references", [0, 2])
def test_a_whole_model_is_measured_in_a_handful_of_launches(launched: list[int], references: int) -> None:
    # 12 matrices, 4 biases, 4 norms.
    segments = Case((4096,) * 12 + (70,) * 8, references=references).segments(np.random.default_rng(1))
    kernel = interpreted(words=128, blocks=1)(segments, Case((1,)).rules)
    launched.clear()
    kernel()
    assert launched == [12, 8]


def test_what_was_compiled_before_is_not_compiled_again(launched: list[int]) -> None:
    """Kernels for weights that adapters make are bound anew at each pass."""
    case = Case((8192, 33), tolerances=(0.25, 0.5, 0.75))
    for compiles, _ in ((2, "full blocks, and a rest"), (0, "again")):
        TritonKernel(case.segments(np.random.default_rng(1)), case.rules, words=64, blocks=2)
        assert launched == [1] * compiles
        launched.clear()


def test_binding_measures_nothing() -> None:
    case = Case((33, 8192), references=1)
    segments = case.segments(np.random.default_rng(1))
    before = [copied(segment) for segment in segments]
    TritonKernel(segments, case.rules, words=64, blocks=2)
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
    triton_tiles.measure[(1,)](
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
    assert integers[0, CHANGED] == first + 3
    assert squares[0] == 3.0
    assert mask.tolist() == [1, 2, 0, 0, 0, 0, 0, -(2**31)]
