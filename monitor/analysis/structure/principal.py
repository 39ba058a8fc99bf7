"""Principal weights of a base matrix: the largest entries of what is left of it at a low rank (arXiv 2511.08567)."""

from __future__ import annotations

import torch

from monitor.analysis.structure.defaults import PRINCIPAL_WHOLE_UP_TO
from monitor.analysis.structure.magnitudes import largest
from monitor.analysis.structure.spectrum import Method

# Of torch.svd_lowrank: columns beyond the rank, and subspace iterations.
_OVERSAMPLING = 32
_ITERATIONS = 2
_SEED = 20_251_108


def principal_rank(share: float, shape: tuple[int, ...]) -> int:
    """Return k: a share of min(rows, columns), rounded down and at least 1, as in arXiv 2606.13657.

    >>> principal_rank(0.1, (64, 96))
    6
    """
    return max(1, int(share * min(shape)))


def principal_weights(
    name: str, base: torch.Tensor, share: float, rank_share: float, whole_up_to: int = PRINCIPAL_WHOLE_UP_TO
) -> tuple[torch.Tensor, Method]:
    """Return the mask of the principal weights, and how the base was decomposed.

    Args:
        name: of the matrix.
        base: matrix of shape (rows, columns), any floating dtype. What is not finite counts as 0.
        share: α, the share of the matrix that is marked.
        rank_share: of min(rows, columns), which gives k.
        whole_up_to: the smaller side up to which the singular vectors are those of all values.
    """
    weights = torch.nan_to_num(base.float(), nan=0.0, posinf=0.0, neginf=0.0)
    rank = principal_rank(rank_share, base.shape)
    method = Method.WHOLE if min(base.shape) <= whole_up_to else Method.RANDOMISED
    left, right = (_whole if method is Method.WHOLE else _randomised)(weights, rank)
    del weights
    return largest(name, left @ right, share, torch.float32), method


def _whole(weights: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return U·Σ of shape (rows, rank) and Vᵀ of shape (rank, columns)."""
    u, s, vh = torch.linalg.svd(weights, full_matrices=False)
    return u[:, :rank] * s[:rank], vh[:rank]


def _randomised(weights: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    # torch.svd_lowrank draws from the generator of all; whoever calls this has numbers of their own to draw.
    with torch.random.fork_rng(devices=[weights.device] if weights.is_cuda else []):
        torch.manual_seed(_SEED)
        q = min(rank + _OVERSAMPLING, *weights.shape)
        u, s, v = torch.svd_lowrank(weights, q=q, niter=_ITERATIONS)
    return u[:, :rank] * s[:rank], v[:, :rank].T
