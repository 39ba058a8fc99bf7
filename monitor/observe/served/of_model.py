"""What `fingerprint` makes of the model that trains, over all processes, and what an engine is asked with."""

from __future__ import annotations

import math

import torch

from monitor.observe.served.sums import sums, unsigned
from monitor.observe.weights.roster import Roster


def fingerprint_of(roster: Roster, visible_dtype: torch.dtype) -> dict[str, int]:
    """Return name → number of each parameter that is not lost, frozen ones too; all processes must call it."""
    placed = [*roster.measured, *roster.frozen]
    with torch.no_grad():
        found = unsigned(roster.ranks.sum_of(lambda: sums(placed, visible_dtype)))
    return {weights.name: number for weights, number in zip(placed, found, strict=True)}


def sizes_of(roster: Roster) -> dict[str, int]:
    """Return name → number of weights of each, under all of its names."""
    found = {weights.name: math.prod(weights.shape) for weights in (*roster.measured, *roster.frozen)}
    return found | {name: found[own] for name, own in roster.tied.items() if own in found}
