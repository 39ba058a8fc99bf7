"""The base's bits in the dtype of the fine-tuned checkpoint, where that makes them comparable: bfloat16 and float32.

A base in bfloat16 is often trained, and saved, in float32; and the other way round. The rules are on integers alone, so
that they are the same everywhere: whatever they make of a NaN, the delta is told against it.
"""

from __future__ import annotations

from monitor.analysis.delta.blocks import Bits


def comparable(of_source: str, wanted: str) -> bool:
    """Return whether bits of one dtype can be described against those of another; names as in safetensors.

    >>> comparable("BF16", "F32"), comparable("F16", "BF16")
    (True, False)
    """
    return of_source == wanted or {of_source, wanted} == {"BF16", "F32"}


def converted(bits: Bits, of_source: str, wanted: str) -> Bits:
    """Return bits of the source in the wanted dtype: bfloat16 is the upper half of float32, rounded to nearest even."""
    if of_source == wanted:
        return bits
    if wanted == "F32":
        return bits.astype("<u4") << 16
    rounded: Bits = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return rounded.astype("<u2")
