"""16-bit weights kept as one byte: the low byte of their position among all representable values.

Position 0 is ±0, the next larger value is 1, the next smaller one is −1. A weight that moved by fewer than 128
positions is found again exactly; a move is overlooked only if it is a multiple of 256 positions.
"""

from __future__ import annotations

import numpy as np
import torch

from monitor.observe.borrowed import borrow
from monitor.observe.chunk_sizes import LOW_BYTES_ON_GPU, elements_on
from monitor.observe.criterion import visible

_CANONICAL_NAN = {torch.bfloat16: 0x7FC0, torch.float16: 0x7E00}


def fits(visible_dtype: torch.dtype) -> bool:
    """Return whether weights of this dtype can be kept as low bytes."""
    return visible_dtype in _CANONICAL_NAN


def position(weights: torch.Tensor) -> torch.Tensor:
    """Return p = ±(bits without sign) as int32; every NaN is at the position of the quiet NaN without payload.

    >>> position(torch.tensor([0.0, -0.0, 1.0, -1.0], dtype=torch.bfloat16)).tolist()
    [0, 0, 16256, -16256]
    """
    bits = weights.view(torch.int16).to(torch.int32)
    signed = torch.where(bits < 0, -(bits & 0x7FFF), bits)
    return torch.where(weights.isnan(), _CANONICAL_NAN[weights.dtype], signed)


def low_byte(weights: torch.Tensor) -> torch.Tensor:
    """Return p mod 256 as uint8."""
    return (position(weights) & 0xFF).to(torch.uint8)


def nearest(low: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
    """Return the weights with these low bytes that are nearest to `around`, counted in positions.

    p − ((p − low + 128) mod 256 − 128) for a p of `around`; exact where that p is −128 … 127 away.
    """
    there = position(around)
    found = there - (((there - low + 128) & 0xFF) - 128)
    found = found.clamp(-0x7FFF, 0x7FFF)
    bits = torch.where(found < 0, -found - 0x8000, found)
    return bits.to(torch.int16).view(around.dtype)


def previous_weights(weights: torch.Tensor, visible_dtype: torch.dtype) -> torch.Tensor:
    """Return what the next observation is compared with: low bytes where the visible dtype has 16 bits, else a copy."""
    if not fits(visible_dtype):
        return visible(weights.reshape(-1), visible_dtype).clone()
    return low_bytes(weights, visible_dtype)


def low_bytes(weights: torch.Tensor, visible_dtype: torch.dtype) -> torch.Tensor:
    """Return the low bytes of the visible weights, shape (n,), uint8."""
    flat = weights.reshape(-1)
    low = torch.empty(flat.numel(), dtype=torch.uint8, device=flat.device)
    step = elements_on(flat.device, LOW_BYTES_ON_GPU)
    for start in range(0, flat.numel(), step):
        chunk = visible(flat[start : start + step], visible_dtype)
        low[start : start + step] = _low_byte_on_cpu(chunk) if flat.device.type == "cpu" else low_byte(chunk)
    return low


def _low_byte_on_cpu(weights: torch.Tensor) -> torch.Tensor:
    # The same in 16 and 8 bits with numpy, ten times as fast: this is done for the whole model when training starts.
    contiguous = weights.detach().contiguous()
    bits = borrow(contiguous).view(torch.int16).numpy()
    sign, size = bits >> 15, bits & 0x7FFF
    low = ((size ^ sign) - sign).astype(np.uint8)
    nan = size > (0x7F80 if weights.dtype == torch.bfloat16 else 0x7C00)
    if nan.any():
        low[nan] = _CANONICAL_NAN[weights.dtype] & 0xFF
    return torch.from_numpy(low)
