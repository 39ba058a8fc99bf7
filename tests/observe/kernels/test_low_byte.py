"""One byte per 16-bit weight: the position among representable values, modulo 256."""

from __future__ import annotations

import pytest
import torch

from monitor.observe.kernels import low_byte

EVERY_PATTERN = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
DTYPES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_positions_rise_with_the_values(dtype: torch.dtype) -> None:
    weights = EVERY_PATTERN.view(dtype)
    ordered = weights[~weights.isnan()].double().sort()
    positions = low_byte.position(weights[~weights.isnan()])[ordered.indices]
    rises = (ordered.values.diff() > 0).int()
    assert torch.equal(positions.diff(), rises.to(positions.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_whole_tensor_gives_the_bytes_of_the_specification(dtype: torch.dtype) -> None:
    weights = EVERY_PATTERN.view(dtype)
    assert torch.equal(
        low_byte.low_bytes(weights.view(256, 256).t(), dtype), low_byte.low_byte(weights.view(256, 256).t().reshape(-1))
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("apart", [-128, -127, -1, 0, 1, 127])
def test_a_weight_is_found_again_from_up_to_127_positions_away(dtype: torch.dtype, apart: int) -> None:
    infinity = torch.tensor(torch.inf, dtype=dtype)
    last = int(low_byte.position(infinity.view(1)))
    positions = torch.arange(-last + 128, last - 128, dtype=torch.int32)
    base = torch.where(positions < 0, -positions - 0x8000, positions).to(torch.int16).view(dtype)
    moved = positions + apart
    current = torch.where(moved < 0, -moved - 0x8000, moved).to(torch.int16).view(dtype)
    assert torch.equal(low_byte.nearest(low_byte.low_byte(base), current), base)
