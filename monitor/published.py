"""What is published of the sparsity of finished trainings: what charts draw in behind a run's own curve."""

from __future__ import annotations

from typing import NamedTuple


class Band(NamedTuple):
    """Where published trainings of one kind ended.

    Attributes:
        lowest, highest: cumulative sparsity, from 0 to 1.
    """

    name: str
    lowest: float
    highest: float
    source: str


CUMULATIVE_BITS_BFLOAT16 = (
    Band("published RL", 0.363, 0.917, "arXiv 2511.08567"),
    Band("published SFT", 0.006, 0.188, "arXiv 2511.08567"),
)
"""Cumulative sparsity by bits in bfloat16. It says nothing of another criterion or dtype."""
