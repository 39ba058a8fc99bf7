"""Singular values of an update: its rank, and how its energy is spread over them. Definitions: DEFINITIONS.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import torch

from monitor.analysis.structure.defaults import WHOLE_UP_TO
from monitor.analysis.structure.squares import gram, scaled, squared_norm

TOP = 16
"""How many of the largest singular values the share of energy is of, as in arXiv 2606.13657."""

# Of the block Krylov iteration: it ends when another block adds less than this share to the energy of the 16 largest.
# On entries drawn independently, whose spectrum decays as slowly as any, that is then within 0.1 % of the true one.
_BLOCK = 32
_ENOUGH = 1e-4
_MOST_BLOCKS = 32
_SEED = 20_251_108


class Method(StrEnum):
    """How singular values were computed."""

    WHOLE = "whole"
    RANDOMISED = "randomised"


@dataclass(frozen=True)
class Spectrum:
    """What the singular values σ₁ ≥ σ₂ ≥ … of an update Δ say.

    Attributes:
        method: all of them, or the largest ones by a randomised method, which are then lower bounds.
        full_rank: min(rows, columns).
        rank: number of σ > max(rows, columns) · ε · σ₁, with ε of float32: `torch.linalg.matrix_rank`, as in
            arXiv 2505.11711. None where not all are known.
        stable_rank: ‖Δ‖²_F ÷ σ₁²; NaN for Δ = 0.
        entropy_rank: exp of the entropy of σ ÷ Σσ (Roy and Vetterli, 2007), as in arXiv 2606.13657; NaN for Δ = 0, None
            where not all are known.
        top_share: Σ σ² over the 16 largest ÷ ‖Δ‖²_F, 0 to 1; NaN for Δ = 0.
    """

    method: Method
    full_rank: int
    rank: int | None
    stable_rank: float
    entropy_rank: float | None
    top_share: float


def spectrum_of(delta: torch.Tensor, whole_up_to: int = WHOLE_UP_TO) -> Spectrum:
    """Compute the spectrum of a finite float32 matrix on the device that it is on.

    Args:
        delta: shape (rows, columns), at least one of each. Only read.
        whole_up_to: the smaller side up to which all singular values are computed.
    """
    matrix = scaled(delta)
    full_rank = min(delta.shape)
    whole = full_rank <= whole_up_to
    sigma = torch.linalg.svdvals(matrix) if whole else largest_singular_values(matrix)
    # The tolerance in float32, as matrix_rank has it, so that the integer is the same.
    tolerance = sigma[0] * (max(delta.shape) * torch.finfo(torch.float32).eps)
    rank = int((sigma > tolerance).sum())
    values = sigma.double()
    energy = squared_norm(matrix)
    top = float(values[:TOP].square().sum())
    return Spectrum(
        method=Method.WHOLE if whole else Method.RANDOMISED,
        full_rank=full_rank,
        rank=rank if whole else None,
        stable_rank=energy / float(values[0]) ** 2 if energy else math.nan,
        entropy_rank=_entropy_rank(values) if whole else None,
        top_share=min(1.0, top / energy) if energy else math.nan,
    )


def largest_singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """Return the TOP largest singular values and less exact ones after them, descending, in float64.

    They are the same at each call.

    A block Krylov iteration (Musco and Musco, arXiv 1504.05477): for the same products with the matrix it is far closer
    than a subspace iteration, which `torch.svd_lowrank` is, where the spectrum decays as slowly as that of an update.
    No value is larger than the true one.

    Args:
        matrix: float32 of shape (rows, columns). Only read.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    generator = torch.Generator().manual_seed(_SEED)
    width = min(_BLOCK, wide.shape[0])
    block = wide @ torch.randn(wide.shape[1], width, generator=generator).to(wide.device)
    basis = torch.empty(wide.shape[0], 0, device=wide.device)
    projected = torch.empty(wide.shape[1], 0, device=wide.device)
    values, before = torch.zeros(TOP, dtype=torch.float64), 0.0
    while basis.shape[1] + width <= min(wide.shape[0], width * _MOST_BLOCKS):
        block = _orthonormal(block, basis)
        basis = torch.cat([basis, block], dim=1)
        projected = torch.cat([projected, wide.T @ block], dim=1)
        values = _singular_values(projected)
        energy = float(values[:TOP].square().sum())
        if energy - before <= _ENOUGH * energy:
            break
        before = energy
        block = wide @ projected[:, -width:]
    return values


def _orthonormal(block: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return what is new in a block of columns, orthonormal. Twice, since once leaves what rounding mixed in."""
    for _ in range(2):
        block, _ = torch.linalg.qr(block - basis @ (basis.T @ block))
    return block


def _singular_values(tall: torch.Tensor) -> torch.Tensor:
    """Return those of a matrix of few columns."""
    squares: torch.Tensor = torch.linalg.eigvalsh(gram(tall))
    return squares.clamp(min=0).sqrt().flip(0)


def _entropy_rank(sigma: torch.Tensor) -> float:
    total = float(sigma.sum())
    if not total:
        return math.nan
    shares = sigma / total
    return math.exp(float(torch.special.entr(shares).sum()))
