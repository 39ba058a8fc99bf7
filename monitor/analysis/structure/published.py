"""Published values that findings are compared with, each with its source and what it was measured of."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from monitor.observe.criterion import Criterion


@dataclass(frozen=True)
class Range:
    """What was published of a quantity, from the lowest to the highest value, as shares from 0 to 1.

    Attributes:
        of: what it was measured of.
        source: arXiv id.
        about: whether the source gives it roughly.
    """

    lowest: float
    highest: float
    of: str
    source: str
    about: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a value lies within, to the digits that were published."""
        # Half of the last digit: values are published to a tenth of a percent, or to one.
        return round(value, 3) >= self.lowest and round(value, 3) <= self.highest

    def __str__(self) -> str:
        return f"{self.value} for {self.of}, arXiv {self.source}"

    @property
    def value(self) -> str:
        """The figures alone.

        >>> RANK.value, TOP_16.value
        ('99.2–99.8 %', 'about 27 %')
        """
        low, high = f"{100 * self.lowest:g}", f"{100 * self.highest:g}"
        return f"{'about ' * self.about}{low if low == high else f'{low}–{high}'} %"


RANK = Range(0.992, 0.998, "DPO, PRIME, KTO and GRPO", "2505.11711")
TOP_16 = Range(0.27, 0.27, "on-policy distillation", "2606.13657", about=True)
SMALLEST = Range(0.25, 0.49, "on-policy distillation", "2606.13657")
PRINCIPAL = Range(0.044, 0.055, "on-policy distillation", "2606.13657")
RELATIVE_NORM = Range(0.00036, 0.00142, "on-policy distillation", "2606.13657")
RELATIVE_NORM_OFFLINE = Range(0.119, 0.119, "offline distillation", "2606.13657")

_UNCHANGED_BITS = (
    Range(0.363, 0.917, "RL with AdamW", "2511.08567"),
    Range(0.006, 0.188, "supervised fine-tuning", "2511.08567"),
)
_UNCHANGED_1E5 = (
    Range(0.685, 0.96, "RL", "2505.11711"),
    Range(0.06, 0.15, "supervised fine-tuning", "2505.11711"),
)


def unchanged(criterion: Criterion, visible_dtype: torch.dtype) -> tuple[Range, ...]:
    """Return the published cumulative sparsities under a criterion; empty where there are none.

    >>> [each.of for each in unchanged(Criterion(), torch.bfloat16)]
    ['RL with AdamW', 'supervised fine-tuning']
    """
    if visible_dtype != torch.bfloat16:
        return ()
    return {None: _UNCHANGED_BITS, 1e-5: _UNCHANGED_1E5}.get(criterion.tolerance, ())
