"""What one observation would take on a GPU by its datasheet: a model to hold measurements against, not a measurement.

    python -m tests.benchmarks.time_model

The kernel is compiled for each GPU, which needs none. Of these times for a weight the longest is taken, as a GPU does
all of it side by side:

    memory        bytes ÷ bandwidth
    instructions  instructions ÷ (4 schedulers × 32 lanes), of AMD's ÷ (4 SIMDs × 16 lanes)
    integers      those on integers, comparisons, selections ÷ 64 lanes; of AMD's, all have the same lanes
    float64       those in float64, conversions included, ÷ lanes for float64

Instructions are divided by clock and multiprocessors, too. Lanes are those of "Throughput of Native Arithmetic
Instructions" in the CUDA C++ Programming Guide. The column "squares" says what the squares of Δ would take in float64:
per weight a conversion, half a multiplication, half a fused one, and half an addition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from monitor.observe.kernels.kinds import FLOAT32, LOW_BYTE
from tests.benchmarks.shapes import ARCHITECTURES, parameter_shapes
from tests.observe.kernels.machine_code import MI300, NVIDIA, MachineCode, Target, Variant, compiled

_CC75, _CC80, _CC89, _CC90, _CC100 = NVIDIA
_PARTS = ("memory", "instructions", "integers", "float64", "squares")
_SQUARE_IN_FLOAT64 = 2.5
# Two launches of the kernel, and eight of torch that make and convert its counts.
_LAUNCHES, _SECONDS_OF_A_LAUNCH = 10, 5e-6
_ON_INTEGERS = (
    *("IADD", "VIADD", "LOP3", "SHF", "SEL", "FSEL", "ISETP", "FSETP", "FMNMX", "IMNMX", "VIMNMX", "PRMT", "LEA"),
    *("P2R", "R2P", "PLOP3", "SGXT", "BMSK", "IABS", "MOV"),
)


@dataclass(frozen=True)
class Card:
    """A GPU as its maker describes it: bytes per second, multiprocessors, boost clock in Hz, lanes for float64."""

    name: str
    target: Target
    bandwidth: float
    multiprocessors: int
    clock: float
    float64: int
    source: str

    @property
    def lanes(self) -> int:
        """Results of one multiprocessor per clock."""
        return 128 if self.target.backend == "cuda" else 64


CARDS = (
    Card("T4", _CC75, 320e9, 40, 1.59e9, 2, "NVIDIA T4 Tensor Core GPU Product Brief; Turing whitepaper"),
    Card("L4", _CC89, 300e9, 58, 2.04e9, 2, "NVIDIA L4 Tensor Core GPU Datasheet; Ada whitepaper"),
    Card("RTX 4090", _CC89, 1008e9, 128, 2.52e9, 2, "NVIDIA Ada GPU Architecture whitepaper"),
    Card("A100 80 GB", _CC80, 2039e9, 108, 1.41e9, 32, "NVIDIA A100 Datasheet; Ampere whitepaper"),
    Card("H100 SXM", _CC90, 3350e9, 132, 1.98e9, 64, "NVIDIA H100 Datasheet; the clock from its 67 TFLOPS"),
    Card("H200 SXM", _CC90, 4800e9, 132, 1.98e9, 64, "NVIDIA H200 Datasheet; the clock from its 67 TFLOPS"),
    Card("B200", _CC100, 8000e9, 148, 1.965e9, 64, "NVIDIA DGX B200 Datasheet, an eighth of it"),
    Card("B300", _CC100, 8000e9, 160, 1.92e9, 2, "NVIDIA, Inside Blackwell Ultra; code as for B200"),
    Card("MI300X", MI300, 5300e9, 304, 2.1e9, 64, "AMD Instinct MI300X Data Sheet; CDNA 3 whitepaper"),
)
CASES = {
    "bfloat16, all defaults": Variant(),
    "float32 masters, bfloat16 base": Variant(stored=FLOAT32),
    "bfloat16, low bytes as base, no step masks": Variant(kept=LOW_BYTE, steps=False),
    "bfloat16, all defaults, one reference": Variant(references=1),
}


def picoseconds(card: Card, code: MachineCode) -> dict[str, float]:
    """Return what each part of the GPU needs for one weight."""
    per_clock = 1e12 / (card.multiprocessors * card.clock)
    instructions = code.per_weight(lambda name: not name.startswith("s_"))
    integers = code.per_weight(lambda name: name.startswith(_ON_INTEGERS)) if card.target.backend == "cuda" else 0.0
    float64 = code.per_weight(lambda name: re.match(r"D(ADD|FMA|MUL)|.*[fF]64", name) is not None)
    times = (
        1e12 * code.bytes_per_weight / card.bandwidth,
        instructions / card.lanes * per_clock,
        integers / 64 * per_clock,
        float64 / card.float64 * per_clock,
        _SQUARE_IN_FLOAT64 / card.float64 * per_clock,
    )
    return dict(zip(_PARTS, times, strict=True))


def rows(codes: dict[tuple[Target, Variant], MachineCode], variant: Variant, weights: int) -> Iterator[str]:
    """Yield the lines of a table: picoseconds per weight, and milliseconds for a model."""
    columns = ("GPU", "instructions", *(f"{part}, ps" for part in _PARTS), "7B, ms", "bound")
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for card in CARDS:
        code = codes[card.target, variant]
        if code.missing:
            yield f"| {card.name} | {code.missing} |"
            continue
        parts = picoseconds(card, code)
        longest = max(_PARTS[:-1], key=lambda part: parts[part])
        seconds = parts[longest] * 1e-12 * weights + _LAUNCHES * _SECONDS_OF_A_LAUNCH
        figures = " | ".join(f"{time:.2f}" if time else "" for time in parts.values())
        yield f"| {card.name} | {code.per_weight():.1f} | {figures} | {1e3 * seconds:.1f} | {longest} |"


def main() -> None:
    targets = dict.fromkeys(card.target for card in CARDS)
    asked = [(target, variant) for target in targets for variant in CASES.values()]
    codes = dict(zip(asked, compiled(asked), strict=True))
    weights = sum(math.prod(shape) for _, shape in parameter_shapes(ARCHITECTURES["7B"]))
    for name, variant in CASES.items():
        bytes_per_weight = next(code.bytes_per_weight for (_, of), code in codes.items() if of == variant)
        print(f"Model, not measured: {name}, {bytes_per_weight} bytes per weight\n")
        print("\n".join(rows(codes, variant, weights)), end="\n\n")
    print("| GPU | GB/s | multiprocessors | GHz | float64 lanes | source |\n|---|---|---|---|---|---|")
    for card in CARDS:
        figures = f"{card.bandwidth / 1e9:.0f} | {card.multiprocessors} | {card.clock / 1e9} | {card.float64}"
        print(f"| {card.name} | {figures} | {card.source} |")


if __name__ == "__main__":
    main()
