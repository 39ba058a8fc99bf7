"""Sums of squares and products of float32 values that neither round, vanish nor overflow, in little memory."""

from __future__ import annotations

import math

import torch

from monitor.analysis.structure.parts import parts

_ROWS_AT_A_TIME = 4096


def squared_norm(values: torch.Tensor) -> float:
    """Return Σ v² of finite values, each square and the sum in float64, without a copy of all in float64."""
    return math.fsum(float(part.double().square().sum()) for part in parts(values))


def gram(tall: torch.Tensor) -> torch.Tensor:
    """Return AᵀA of a float32 matrix in float64, a few rows at a time: A in float64 would be a copy twice as large."""
    product = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64, device=tall.device)
    for first in range(0, tall.shape[0], _ROWS_AT_A_TIME):
        rows = tall[first : first + _ROWS_AT_A_TIME].double()
        product.addmm_(rows.T, rows)
    return product


def scaled(delta: torch.Tensor) -> torch.Tensor:
    """Return Δ times a power of two, so that squares of tiny or huge values neither vanish nor overflow."""
    largest = float(delta.abs().max())
    if not largest:
        return delta
    exponent = -math.frexp(largest)[1]
    # In two steps, since 2¹⁴⁹ is more than float32 holds.
    return delta * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2)
