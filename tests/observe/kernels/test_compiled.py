"""The kernel for GPUs, compiled for each kind of GPU that users have: nobody needs one for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

pytest.importorskip("triton")

from monitor.observe.kernels.kinds import BFLOAT16, FLOAT16, FLOAT32, LOW_BYTE
from tests.observe.kernels.machine_code import MI300, NVIDIA, MachineCode, Target, Variant, compiled

# All variants are compiled once, for all tests.
pytestmark = pytest.mark.xdist_group("compiled")
# A T4 trains too little to be looked at closely: one variant of it is enough.
T4, *NEWER = NVIDIA
TARGETS = (*NEWER, MI300)
# Every kind is compiled for one of each make, what users have most for the others: all of it takes minutes.
IN_FULL = (NVIDIA[3], MI300)
# Stored, base, visible. The base is kept as it is visible where that loses nothing, else as it is stored, or as low
# bytes; with a module as the base, as that has it.
KINDS = [
    (BFLOAT16, BFLOAT16, BFLOAT16),
    (BFLOAT16, LOW_BYTE, BFLOAT16),
    (BFLOAT16, FLOAT32, BFLOAT16),  # a reference model in float32
    (FLOAT32, BFLOAT16, BFLOAT16),  # masters of a bfloat16 checkpoint
    (FLOAT32, FLOAT32, BFLOAT16),
    (FLOAT32, LOW_BYTE, BFLOAT16),
    (FLOAT16, FLOAT16, BFLOAT16),  # a float16 model, with the default visible dtype
    (FLOAT16, FLOAT16, FLOAT16),
    (FLOAT16, LOW_BYTE, FLOAT16),
    (FLOAT32, FLOAT16, FLOAT16),
    (FLOAT32, FLOAT32, FLOAT16),
    (FLOAT32, LOW_BYTE, FLOAT16),
    (FLOAT32, FLOAT32, FLOAT32),
    (BFLOAT16, FLOAT32, FLOAT32),
]
EVERY_KIND = [Variant(*kinds) for kinds in KINDS]
# Everything at once takes the most registers.
FULL = [Variant(*kinds, atol=True, limits=2, references=3) for kinds in (KINDS[0], KINDS[-2])]
NARROW = [replace(variant, wide=False) for variant in FULL]
BARE = Variant(steps=False)
USUAL = [Variant(*KINDS[0]), Variant(*KINDS[1]), Variant(*KINDS[3]), *FULL, BARE]


def variants(target: Target) -> list[Variant]:
    return [*EVERY_KIND, *FULL, *NARROW, BARE] if target in IN_FULL else USUAL


ALL = [(target, variant) for target in TARGETS for variant in variants(target)] + [(T4, Variant())]
# Instructions per weight with all defaults, as Triton 3.9 has them.
INSTRUCTIONS = dict(zip((*NVIDIA, MI300), (38.9, 38.8, 39.8, 39.3, 36.5, 33.3), strict=True))
BYTES = {BFLOAT16: 2, FLOAT16: 2, FLOAT32: 4, LOW_BYTE: 1}

Code = Callable[[Target, Variant], MachineCode]


@pytest.fixture(scope="module")
def code() -> Code:
    found = dict(zip(ALL, compiled(ALL, with_loop=lambda variant: variant == Variant()), strict=True))

    def of(target: Target, variant: Variant) -> MachineCode:
        one = found[target, variant]
        if one.missing:
            pytest.skip(one.missing)
        return one

    return of


def named(of: object) -> str:
    return "-".join(f"{value:d}" for value in vars(of).values()) if isinstance(of, Variant) else str(of)


@pytest.mark.parametrize(("target", "variant"), ALL, ids=named)
def test_every_value_has_a_register(code: Code, target: Target, variant: Variant) -> None:
    # What is put away before the loop, and fetched after it, takes no time.
    assert code(target, variant).local_bytes <= 8


@pytest.mark.parametrize(("target", "variant"), [both for both in ALL if both[1].wide], ids=named)
def test_weights_are_loaded_and_stored_16_bytes_at_a_time(code: Code, target: Target, variant: Variant) -> None:
    found = code(target, variant)
    previous = FLOAT32 if variant.visible == FLOAT32 else LOW_BYTE
    # Previous weights are read and written.
    moved = [variant.stored, variant.kept, *[previous] * 2 * variant.steps]
    # A thread has 16 weights; of AMD's 64 in a warp, each has 8, and loads low bytes 8 at a time.
    assert found.accesses.count(16) == sum(int(BYTES[kind] * found.weights) // 16 for kind in moved)
    assert not {1, 2}.intersection(found.accesses)


@pytest.mark.parametrize("target", INSTRUCTIONS, ids=str)
def test_a_weight_takes_no_more_instructions_than_the_model_of_the_time_says(code: Code, target: Target) -> None:
    found = code(target, Variant())
    # Another version of the compiler may need a few more.
    assert found.per_weight() <= 1.1 * INSTRUCTIONS[target]
    # A multiprocessor of NVIDIA's has registers for 512 such threads, a SIMD of AMD's for 4 such warps: while some wait
    # for memory, others compute.
    assert found.registers <= 128


@pytest.mark.parametrize("target", NVIDIA, ids=str)
def test_hardly_anything_is_computed_in_float64(code: Code, target: Target) -> None:
    """Of a T4, an L4, a 4090 or a B300, a multiprocessor starts 2 of those in a cycle, and 128 others."""
    found = code(target, Variant()).per_weight(lambda name: name.startswith(("DADD", "DFMA", "DMUL")) or "F64" in name)
    assert found <= 1 / 8


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_only_what_is_asked_for_is_paid_for(code: Code, target: Target) -> None:
    """current + base + update mask read and written; previous and touched read and written; 1/8 per reference."""
    asked = {
        Variant(): 2 + 2 + 2 / 8 + 2 * 1 + 2 / 8,
        BARE: 2 + 2 + 2 / 8,
        Variant(kept=LOW_BYTE): 2 + 1 + 2 / 8 + 2 * 1 + 2 / 8,
        Variant(stored=FLOAT32): 4 + 2 + 2 / 8 + 2 * 1 + 2 / 8,
        # Tolerances cost nothing; three references are loaded as four, the last of which is nowhere.
        FULL[0]: 6.5 + 4 / 8,
        FULL[1]: 4 + 4 + 2 / 8 + 2 * 4 + 2 / 8 + 4 / 8,
    }
    assert {variant: code(target, variant).bytes_per_weight for variant in asked} == asked


@pytest.mark.parametrize("target", NEWER, ids=str)
def test_no_instruction_takes_subnormals_for_zero(code: Code, target: Target) -> None:
    """What the interpreter cannot tell; PTX calls it `.ftz`."""
    for variant in variants(target):
        assert code(target, variant).takes_subnormals_for_zero == ()
