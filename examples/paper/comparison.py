"""Two runs' final weights beside each other, by the monitor's own count."""

from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM

from monitor import UpdateObserver
from paper.results import WEIGHTS_FOLDER, Result


def share_equal(first: Result, second: Result, tolerances: Sequence[float]) -> dict[float, float]:
    """Return, for each tolerance, the share of weights of two runs that differ by no more, 0 to 1; 0 asks for bits."""
    one, other = (
        AutoModelForCausalLM.from_pretrained(result.directory / WEIGHTS_FOLDER, dtype=torch.bfloat16)
        for result in (first, second)
    )
    above_0 = [tolerance for tolerance in tolerances if tolerance]
    seen = UpdateObserver(other, base=one.requires_grad_(False), tolerances=above_0, step_masks=False).observe(1)
    shares = {tolerance: 1 - int(counts.sum()) / seen.trained_weights for tolerance, counts in seen.changed_at.items()}
    return {0.0: seen.cumulative_sparsity, **shares}
