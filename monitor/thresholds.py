"""Where alerts about sparsity fire unless they are set otherwise: for the rules, and for what draws them."""

from __future__ import annotations

from typing import NamedTuple


class Threshold(NamedTuple):
    """A sparsity below which an alert may fire.

    Attributes:
        alert: its name, also in the runbook.
        value: from 0 to 1.
        besides: what else it takes, in words; empty where this is all.
    """

    alert: str
    value: float
    besides: str = ""

    def __str__(self) -> str:
        return f"{self.alert} below {100 * self.value:g} %{self.besides and f', {self.besides}'}"


CUMULATIVE_LOW = Threshold("CumulativeSparsityLow", 0.70)
"""Of cumulative sparsity."""

CUMULATIVE_CRITICAL = Threshold("CumulativeSparsityCritical", 0.35)
"""Of cumulative sparsity, too."""

STEP_COLLAPSED = Threshold("StepSparsityCollapsed", 0.975, "and far below the run's own median")
"""Of step sparsity."""
