"""Row and column profiles of an update mask: whether changed weights gather in stripes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch

from monitor.observe.observation import IntArray


class Lines(StrEnum):
    """The lines of a matrix."""

    ROWS = "rows"
    COLUMNS = "columns"


@dataclass(frozen=True)
class Profile:
    """How many weights of each row, or of each column, changed.

    Attributes:
        counts: one entry per line.
        length: weights of a line.
    """

    counts: IntArray
    length: int

    @property
    def ratios(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """ρᵢ of a row, κⱼ of a column: the share of its weights that changed (arXiv 2511.08567)."""
        return self.counts / self.length

    @property
    def variance(self) -> float:
        """Sample variance of the ratios over the lines; NaN with less than two lines."""
        return float(self.ratios.var(ddof=1)) if self.counts.size > 1 else math.nan

    @property
    def binomial_variance(self) -> float:
        """What it is when each weight changes with the same probability p on its own: p(1 − p) ÷ weights of a line."""
        p = float(self.counts.sum()) / (self.counts.size * self.length)
        return p * (1 - p) / self.length

    @property
    def dispersion(self) -> float:
        """Variance ÷ the binomial one: 1 is chance, more is stripes. NaN where nothing or everything changed.

        It is χ² ÷ (lines − 1), the index of dispersion.
        """
        expected = self.binomial_variance
        return self.variance / expected if expected else math.nan

    @property
    def chance_deviation(self) -> float:
        """Standard deviation of the dispersion under chance, √(2 ÷ (lines − 1)); NaN with less than two lines."""
        return math.sqrt(2 / (self.counts.size - 1)) if self.counts.size > 1 else math.nan


def profile(changed: torch.Tensor, lines: Lines) -> Profile:
    """Count the changed weights of each row or column of a boolean matrix.

    >>> profile(torch.tensor([[True, True], [False, False]]), Lines.ROWS).counts.tolist()
    [2, 0]
    """
    along = 1 if lines is Lines.ROWS else 0
    counts: IntArray = changed.sum(dim=along, dtype=torch.int64).cpu().numpy()
    return Profile(counts, changed.shape[along])


# Modules of attention by their last names in the libraries at hand; of Conv1D (GPT-2) the matrix lies on its side.
_QKV = re.compile(
    r"(?:^|[._])(?:[qkv]_proj|[qkv]_[ab]_proj|qkv(?:_proj)?|Wqkv|query|key|value|query_key_value|to_[qkv])$"
)
_OUTPUT = re.compile(r"(?:^|[._])(?:o_proj|out_proj|(?:attention|self_attention)\.dense|to_out)$")
_QKV_ON_ITS_SIDE = re.compile(r"(?:^|\.)c_attn$")
_OUTPUT_ON_ITS_SIDE = re.compile(r"(?:^|\.)attn\.c_proj$")


def lines_of_stripes(module: str) -> Lines | None:
    """Return the lines that updates gather in according to arXiv 2511.08567: rows of Q, K, V, columns of O.

    >>> lines_of_stripes("self_attn.q_proj"), lines_of_stripes("self_attn.o_proj"), lines_of_stripes("mlp.up_proj")
    (<Lines.ROWS: 'rows'>, <Lines.COLUMNS: 'columns'>, None)
    """
    if _QKV.search(module) or _OUTPUT_ON_ITS_SIDE.search(module):
        return Lines.ROWS
    if _OUTPUT.search(module) or _QKV_ON_ITS_SIDE.search(module):
        return Lines.COLUMNS
    return None
