"""Principal weights of a base matrix: the largest entries of what is left of it at a low rank (arXiv 2511.08567)."""

from __future__ import annotations

import torch

from monitor.analysis.structure.defaults import WHOLE_UP_TO
from monitor.analysis.structure.magnitudes import largest
from monitor.analysis.structure.spectrum import Method
from monitor.analysis.structure.squares import gram, scaled

# Of torch.svd_lowrank: columns as a multiple of the rank, and subspace iterations. What is marked is then 99 % the same
# as of the whole decomposition where singular values decay like 1/√i, and 83 % where they hardly decay at all.
_COLUMNS = 2
_ITERATIONS = 4
_SEED = 20_251_108


def principal_rank(share: float, shape: tuple[int, ...]) -> int:
    """Return k: a share of min(rows, columns), rounded down and at least 1, as in arXiv 2606.13657.

    >>> principal_rank(0.1, (64, 96))
    6
    """
    return max(1, int(share * min(shape)))


def principal_weights(
    name: str, base: torch.Tensor, share: float, rank_share: float, whole_up_to: int = WHOLE_UP_TO
) -> tuple[torch.Tensor, Method]:
    """Return the mask of the principal weights, and how the base was decomposed.

    Args:
        name: of the matrix.
        base: matrix of shape (rows, columns), any floating dtype. What is not finite counts as 0.
        share: α, the share of the matrix that is marked.
        rank_share: of min(rows, columns), which gives k.
        whole_up_to: the smaller side up to which all of the base is decomposed.
    """
    weights = scaled(torch.nan_to_num(base.to(torch.float32, copy=True), nan=0.0, posinf=0.0, neginf=0.0))
    # The smaller side as rows, on which the singular vectors are then short.
    wide = weights if weights.shape[0] <= weights.shape[1] else weights.T
    rank = principal_rank(rank_share, base.shape)
    method = Method.WHOLE if wide.shape[0] <= whole_up_to else Method.RANDOMISED
    vectors = (_whole if method is Method.WHOLE else _randomised)(wide, rank)
    # U_k U_kᵀ W is U_k Σ_k V_kᵀ.
    reconstruction = vectors @ (vectors.T @ wide)
    del weights, wide
    flat = reconstruction if reconstruction.shape == base.shape else reconstruction.T
    return largest(name, flat, share, torch.float32), method


def _whole(wide: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the first left singular vectors, shape (rows, rank): three times as fast as a singular decomposition."""
    vectors: torch.Tensor = torch.linalg.eigh(gram(wide.T).float()).eigenvectors
    return vectors[:, -rank:]


def _randomised(wide: torch.Tensor, rank: int) -> torch.Tensor:
    # torch.svd_lowrank draws from the generator of all; whoever calls this has numbers of their own to draw.
    with torch.random.fork_rng(devices=[wide.device] if wide.is_cuda else []):
        torch.manual_seed(_SEED)
        u, _, _ = torch.svd_lowrank(wide, q=min(_COLUMNS * rank, wide.shape[0]), niter=_ITERATIONS)
    return u[:, :rank]
