"""The kernel for GPUs, in Triton's interpreter on the CPU: it agrees with the specification bit for bit."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
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

from monitor.observe.kernels import triton_tiles
from monitor.observe.kernels.gpu import TritonKernel

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
    assert integers[0, 0] == first + 3
    assert squares[0] == 3.0
    assert mask.tolist() == [1, 2, 0, 0, 0, 0, 0, -(2**31)]


_COMPILE = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from monitor.observe.kernels.triton_tiles import measure

types = dict(tiles="*i64", table="*i64", limits="*i32", limit="i32", integers="*i64", squares="*fp64", largest="*i64",
             table_columns="i32", count_columns="i32")
names = measure.arg_names

def compiled(constants):
    source = ASTSource(
        fn=measure,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    asm = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True}).asm
    return {"ptx": asm["ptx"], "ttgir": asm["ttgir"]}

print(json.dumps([compiled(constants) for constants in json.loads(sys.argv[1])]))
"""
_DEFAULTS = {"STORED": 0, "KEPT": 0, "VISIBLE": 0, "STEPS": True, "ATOL": False, "LIMITS": 0, "REFERENCES": 0}
_DEFAULTS |= {"WIDE": True, "WORDS": 64, "BLOCKS": 16}
_EVERYTHING = {"STORED": 2, "KEPT": 2, "LIMITS": 2, "ATOL": True, "REFERENCES": 3}


def compiled(*constants: dict[str, object]) -> list[dict[str, str]]:
    """Compile ahead of time for compute capability 9.0, and return the intermediate languages by name."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", _COMPILE, json.dumps([_DEFAULTS | some for some in constants])]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "Cannot find ptxas" in result.stderr or "No module named 'triton.backends" in result.stderr:
        pytest.skip("this build of Triton brings no compiler for NVIDIA GPUs")
    assert result.returncode == 0, result.stderr
    found: list[dict[str, str]] = json.loads(result.stdout)
    return found


def loads(constants: dict[str, object]) -> list[str]:
    """Return the instructions that load."""
    return re.findall(r"ld\.global\S*", compiled(constants)[0]["ptx"])


def bytes_per_weight(ttgir: str) -> float:
    """Add up what a block of weights loads and stores. What a program reads once, as addresses, does not count."""
    blocks = re.findall(r"tt\.(?:load|store) .*: tensor<((?:\d+x)+)!tt\.ptr<i(8|16|32)>", ttgir)
    moved = sum(math.prod(map(int, sizes.rstrip("x").split("x"))) * int(bits) / 8 for sizes, bits in blocks)
    return moved / (int(str(_DEFAULTS["WORDS"])) * 32)


def test_only_what_is_asked_for_is_paid_for() -> None:
    """current + base + update mask read and written; previous and touched read and written; 1/8 per reference."""
    asked: list[tuple[dict[str, object], float]] = [
        ({"STEPS": False}, 2 + 2 + 2 / 8),
        ({}, 2 + 2 + 2 / 8 + 2 * 1 + 2 / 8),
        ({"STEPS": False, "KEPT": 3}, 2 + 1 + 2 / 8),
        ({"STEPS": False, "STORED": 2}, 4 + 2 + 2 / 8),
        ({"STEPS": False, "LIMITS": 2, "ATOL": True}, 2 + 2 + 2 / 8),
        ({"STEPS": False, "REFERENCES": 1}, 2 + 2 + 3 / 8),
        ({"REFERENCES": 2}, 6.5 + 2 / 8),
        ({"STORED": 2, "KEPT": 2, "VISIBLE": 2}, 4 + 4 + 2 / 8 + 2 * 4 + 2 / 8),
    ]
    moved = [bytes_per_weight(one["ttgir"]) for one in compiled(*(constants for constants, _ in asked))]
    assert moved == [expected for _, expected in asked]


@pytest.mark.parametrize(("constants", "wide_loads"), [({}, 5), (_EVERYTHING, 9), ({"KEPT": 3}, 4)])
def test_a_gpu_loads_16_bytes_at_a_time(constants: dict[str, object], wide_loads: int) -> None:
    """Per thread and block 16 weights of each tensor, 16 bytes a load."""
    found = loads(constants)
    assert found.count("ld.global.v4.b32") >= wide_loads
    assert "ld.global.b16" not in found


@pytest.mark.parametrize("constants", [{"WIDE": False}, _EVERYTHING | {"WIDE": False, "STEPS": False}])
def test_what_is_not_aligned_compiles_for_a_gpu(constants: dict[str, object]) -> None:
    """Sums along rows that are spread over threads crash the compiler of Triton 3.9."""
    assert loads(constants)


def test_no_instruction_takes_subnormals_for_zero() -> None:
    """What the interpreter cannot tell; PTX calls it `.ftz`."""
    sides = compiled({}, _EVERYTHING, {"STORED": 1, "KEPT": 1, "VISIBLE": 1}, {"STORED": 2, "KEPT": 2, "VISIBLE": 2})
    assert [re.findall(r"\S*\.ftz\S*", side["ptx"]) for side in sides] == [[], [], [], []]
