"""The structure of an update's matrices: rank, stable rank, and where the energy is."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from safetensors.torch import load_file

from paper.results import WEIGHTS_FOLDER, Result


@dataclass(frozen=True)
class UpdateStructure:
    """Means over the matrices that changed.

    Attributes:
        rank: as a share of the largest possible one.
        stable_rank: ‖Δ‖²_F/σ₁².
        energy_of_16: share of ‖Δ‖²_F in the 16 largest singular values.
    """

    rank: float
    stable_rank: float
    energy_of_16: float


def structure_of_update(base: Path, result: Result) -> UpdateStructure:
    """Return the structure of what a run changed, in the weights that it left."""
    before = load_file(base / "model.safetensors")
    after = load_file(result.directory / WEIGHTS_FOLDER / "model.safetensors")
    updates = [after[name].bfloat16().float() - before[name].bfloat16().float() for name in before]
    matrices = [update for update in updates if update.ndim == 2 and update.any()]
    parts = [_of_matrix(matrix) for matrix in matrices]
    return UpdateStructure(*(fmean(values) for values in zip(*parts, strict=True)))


def _of_matrix(matrix: torch.Tensor) -> tuple[float, float, float]:
    energies = torch.linalg.svdvals(matrix) ** 2
    total = energies.sum()
    rank = torch.linalg.matrix_rank(matrix).item() / min(matrix.shape)
    return rank, (total / energies[0]).item(), (energies[:16].sum() / total).item()
