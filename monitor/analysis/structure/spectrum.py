"""Singular values of an update: its rank, and how its energy is spread over them. Definitions: DEFINITIONS.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import torch

from monitor.analysis.structure.defaults import WHOLE_UP_TO
from monitor.analysis.structure.parts import parts

TOP = 16
"""How many of the largest singular values the share of energy is of, as in arXiv 2606.13657."""

# Of the block Krylov iteration. On entries drawn independently, whose spectrum decays as slowly as any, the energy of
# the 16 largest comes within 0.1 % of itself; see tests/analysis/structure/test_spectrum.py.
_BLOCK = 32
_DEPTH = 8
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
    scaled = _scaled(delta)
    full_rank = min(delta.shape)
    whole = full_rank <= whole_up_to
    sigma = torch.linalg.svdvals(scaled) if whole else largest_singular_values(scaled)
    # The tolerance in float32, as matrix_rank has it, so that the integer is the same.
    tolerance = sigma[0] * (max(delta.shape) * torch.finfo(torch.float32).eps)
    rank = int((sigma > tolerance).sum())
    values = sigma.double()
    energy = squared_norm(scaled)
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
    """Return the TOP largest singular values and less exact ones after them, in descending order, alike at each call.

    A block Krylov iteration (Musco and Musco, arXiv 1504.05477): for the same products with the matrix it is far closer
    than a subspace iteration, which `torch.svd_lowrank` is, where the spectrum decays as slowly as that of an update.
    No value is larger than the true one.

    Args:
        matrix: float32 of shape (rows, columns), each more than _BLOCK · _DEPTH. Only read.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    generator = torch.Generator().manual_seed(_SEED)
    start = torch.randn(wide.shape[1], _BLOCK, generator=generator).to(wide.device)
    block = wide @ start
    basis = torch.empty(wide.shape[0], 0, device=wide.device)
    for _ in range(_DEPTH):
        # Twice is enough (Kahan; Giraud et al., 2005): once leaves what rounding mixed in.
        for _ in range(2):
            block = block - basis @ (basis.T @ block)
            block, _ = torch.linalg.qr(block)
        basis = torch.cat([basis, block], dim=1)
        block = wide @ (wide.T @ block)
    values: torch.Tensor = torch.linalg.svdvals(basis.T @ wide)
    return values


def squared_norm(values: torch.Tensor) -> float:
    """Return Σ v² of finite values, each square and the sum in float64, without a copy of all in float64."""
    return math.fsum(float(part.double().square().sum()) for part in parts(values))


def _scaled(delta: torch.Tensor) -> torch.Tensor:
    """Return Δ times a power of two, so that squares of tiny or huge values neither vanish nor overflow."""
    largest = float(delta.abs().max())
    if not largest:
        return delta
    exponent = -math.frexp(largest)[1]
    # In two steps, since 2¹⁴⁹ is more than float32 holds.
    return delta * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2)


def _entropy_rank(sigma: torch.Tensor) -> float:
    total = float(sigma.sum())
    if not total:
        return math.nan
    shares = sigma / total
    return math.exp(float(torch.special.entr(shares).sum()))
