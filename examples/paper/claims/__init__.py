"""The claims, one a file, in the order of the report."""

from collections.abc import Callable

from paper.claims import (
    algorithms,
    distribution,
    location,
    matrices,
    optimizers,
    over_time,
    overlap,
    random_masks,
    rank,
    subnetwork,
    tolerance,
    variants,
)
from paper.claims.claim import Claim, Runs

CLAIMS: tuple[Callable[[Runs], Claim], ...] = (
    algorithms.claim,
    tolerance.claim,
    matrices.claim,
    over_time.claim,
    overlap.claim,
    rank.claim,
    location.claim,
    subnetwork.claim,
    random_masks.claim,
    variants.claim,
    distribution.claim,
    optimizers.claim,
)
