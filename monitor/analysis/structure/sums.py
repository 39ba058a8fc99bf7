"""What adds up over matrices and vectors of an update: counts, energies, and the histogram of steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from monitor.analysis.structure.selection import energy_of_largest, share_count
from monitor.analysis.structure.squares import squared_norm
from monitor.analysis.structure.steps import BUCKETS, step_histogram
from monitor.analysis.structure.update import Update
from monitor.observe.observation import IntArray

TOP_COORDINATES = (0.001, 0.01, 0.05)
"""The shares of the coordinates whose energy is summed, as in arXiv 2606.13657."""


@dataclass(frozen=True)
class Sums:
    """Counts and energies of any number of matrices and vectors.

    Attributes:
        weights: n.
        changed: |M|.
        without_size: weights whose Δ is NaN or infinite: among the changed ones, and in no energy, spectrum or step.
        base_non_finite: weights that are NaN or infinite in the base: in no norm of it.
        energy: ‖Δ‖²_F, the sum of Δ² in float64.
        base_energy: ‖θ₀‖²_F of the visible base.
        top_energy: for each share in TOP_COORDINATES, Σ Δ² over so many of the largest |Δ| of each matrix or vector.
        steps: how many weights moved by 2ᵇ to 2ᵇ⁺¹ − 1 representable steps, one entry per b; finite ones.
    """

    weights: int
    changed: int
    without_size: int
    base_non_finite: int
    energy: float
    base_energy: float
    top_energy: tuple[float, ...]
    steps: IntArray

    @classmethod
    def of(cls, update: Update) -> Sums:
        """Compute them for one matrix or vector."""
        weights = update.weights
        finite_base = torch.nan_to_num(update.base, nan=0.0, posinf=0.0, neginf=0.0)
        return cls(
            weights=weights,
            changed=int(update.changed.sum()),
            without_size=update.without_size,
            base_non_finite=weights - int(torch.isfinite(update.base).sum()),
            energy=squared_norm(update.delta),
            base_energy=squared_norm(finite_base),
            top_energy=tuple(energy_of_largest(update.delta, share_count(share, weights)) for share in TOP_COORDINATES),
            steps=step_histogram(update.base, update.current),
        )

    @classmethod
    def nothing(cls) -> Sums:
        """Return sums over no weights."""
        return cls(0, 0, 0, 0, 0.0, 0.0, (0.0,) * len(TOP_COORDINATES), np.zeros(BUCKETS, dtype=np.int64))

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            weights=self.weights + other.weights,
            changed=self.changed + other.changed,
            without_size=self.without_size + other.without_size,
            base_non_finite=self.base_non_finite + other.base_non_finite,
            energy=self.energy + other.energy,
            base_energy=self.base_energy + other.base_energy,
            top_energy=tuple(a + b for a, b in zip(self.top_energy, other.top_energy, strict=True)),
            steps=self.steps + other.steps,
        )

    @property
    def density(self) -> float:
        """Cumulative density, changed ÷ weights; NaN of no weights."""
        return self.changed / self.weights if self.weights else math.nan

    @property
    def relative_norm(self) -> float:
        """‖Δ‖ ÷ ‖θ₀‖ over what is finite; NaN where the base is 0."""
        return math.sqrt(self.energy / self.base_energy) if self.base_energy else math.nan

    @property
    def top_shares(self) -> tuple[float, ...]:
        """For each share in TOP_COORDINATES, the share of ‖Δ‖² in so many of the largest |Δ|; NaN for Δ = 0."""
        return tuple(energy / self.energy if self.energy else math.nan for energy in self.top_energy)
