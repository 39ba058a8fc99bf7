"""An independent count of changed weights: numpy over the bytes of safetensors files, none of the package's code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint16]


def bfloat16_bits(directory: Path) -> dict[str, Bits]:
    """Read the weights of a checkpoint as bfloat16 bit patterns, float32 rounded to nearest even, −0 as +0."""
    weights = {}
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        header_size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + header_size])
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = (8 + header_size + offset for offset in entry["data_offsets"])
            bits = _to_bfloat16(data[start:end], entry["dtype"])
            assert bits.size == math.prod(entry["shape"])
            weights[name] = np.where(bits == 0x8000, 0, bits).astype(np.uint16)
    return weights


def _to_bfloat16(data: bytes, dtype: str) -> Bits:
    if dtype == "BF16":
        return np.frombuffer(data, np.uint16)
    assert dtype == "F32"
    bits = np.frombuffer(data, np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def changed_by_group(base: Path, final: Path) -> dict[tuple[str, str], int]:
    """Count differing bfloat16 weights per (layer, module), named as the metrics' labels are."""
    before, after = bfloat16_bits(base), bfloat16_bits(final)
    counts: dict[tuple[str, str], int] = {}
    for name, bits in before.items():
        parts = name.removesuffix(".weight").removesuffix(".bias").split(".")
        layer, module = "-", parts[-1]
        if "layers" in parts:
            at = parts.index("layers")
            layer, module = f"{int(parts[at + 1]):02d}", ".".join(parts[at + 2 :])
        group = (layer, module)
        counts[group] = counts.get(group, 0) + int((bits != after[name]).sum())
    return counts
