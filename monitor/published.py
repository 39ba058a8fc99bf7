"""What published checkpoints show: the bands that dashboards and pages draw and that thresholds refer to."""

from __future__ import annotations

from typing import NamedTuple


class Band(NamedTuple):
    """A range of published values.

    Attributes:
        low: smallest published value, from 0 to 1.
        high: largest.
        source: where the numbers come from.
    """

    low: float
    high: float
    source: str

    def __str__(self) -> str:
        return f"{100 * self.low:g}–{100 * self.high:g} %"


RL_CUMULATIVE = Band(0.36, 0.96, "ProRL-v2 36.3 % (arXiv 2511.08567) to Eurus KTO 96.0 % (arXiv 2505.11711)")
"""Cumulative sparsity of published checkpoints after reinforcement learning."""

SFT_CUMULATIVE = Band(0.006, 0.19, "Klear-SFT 0.6 % to UniReason-SFT 18.8 % (arXiv 2511.08567)")
"""Cumulative sparsity of published checkpoints after supervised fine-tuning."""

DISTILLATION_CUMULATIVE = Band(0.516, 0.516, "arXiv 2606.07082")
"""Cumulative sparsity, by bits, of the published checkpoint after on-policy distillation."""

RL_STEP = Band(0.989, 0.998, "S₁ of GRPO in pure bfloat16 (arXiv 2602.03839)")
"""Step sparsity of reinforcement learning, one step apart."""

SFT_STEP = Band(0.96, 0.982, "supervised fine-tuning in pure bfloat16 at 2e-5 and at 3e-6 (arXiv 2602.03839)")
"""Step sparsity of supervised fine-tuning, one step apart."""

DISTILLATION_LOWEST = Band(0.25, 0.49, "on-policy distillation, arXiv 2606.13657")
"""Share of the changed weights that lie among the 10 % of smallest magnitude of their matrix: o₁ of "lowest:0.1"."""
