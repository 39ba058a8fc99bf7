"""Counts the differences of two checkpoints with the kernels that measure a training, and keeps the mask on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from monitor.analysis.diff.spans import WEIGHTS_ON_CPU, WEIGHTS_ON_GPU, Span, Spans
from monitor.analysis.diff.spill import MaskSpill
from monitor.analysis.pairs import Pairs
from monitor.observe.base.fingerprint import span_sums
from monitor.observe.bits import word_count
from monitor.observe.kernels import kernel_for
from monitor.observe.kernels.contract import FIXED_COLUMNS, MAX_ABS, SQUARED_NORM, Rules, Segment

# Told after each span how many bytes of both sides it had.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Counted:
    """What was counted of some parameters, one row each.

    Attributes:
        integers: int64 of shape (parameters, columns of contract.Counts).
        floats: float64 of shape (parameters, 2): Σ|Δ|² and max|Δ| of the visible weights, over finite Δ.
        sums: int64 of shape (parameters, 2), of the base, for its fingerprint; zeros where no mask is made.
    """

    integers: torch.Tensor
    floats: torch.Tensor
    sums: torch.Tensor

    @classmethod
    def zeros(cls, parameters: int, rules: Rules) -> Counted:
        """Return counts of nothing yet."""
        return cls(
            torch.zeros(parameters, FIXED_COLUMNS + len(rules.tolerances), dtype=torch.int64, device="cpu"),
            torch.zeros(parameters, 2, dtype=torch.float64, device="cpu"),
            torch.zeros(parameters, 2, dtype=torch.int64, device="cpu"),
        )


def best_device(local_rank: int) -> torch.device:
    """Return where to measure: a GPU of CUDA where there is one, else the host."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return torch.device("cpu")


def count(
    pairs: Pairs,
    names: Sequence[str],
    rules: Rules,
    device: torch.device,
    *,
    spill: MaskSpill | None = None,
    progress: Progress = lambda _: None,
) -> Counted:
    """Compare some parameters of a pair of checkpoints.

    Args:
        pairs: the checkpoints.
        names: which parameters.
        rules: how to compare.
        device: where to measure.
        spill: where the mask goes, parameter by parameter in the order of `names`, and is closed; None for no mask.
        progress: told how many bytes were measured.

    Raises:
        CheckpointError: a file cannot be read.
        OSError: the mask cannot be written.
    """
    counted = Counted.zeros(len(names), rules)
    on_gpu = device.type == "cuda"
    for span in Spans(pairs, names, WEIGHTS_ON_GPU if on_gpu else WEIGHTS_ON_CPU, pinned=on_gpu):
        words = _count_span(span, rules, device, counted, with_sums=spill is not None)
        if spill is not None:
            spill.append(words)
        progress(span.base.nbytes + span.finetuned.nbytes)
    if spill is not None:
        spill.close()
    return counted


def _count_span(span: Span, rules: Rules, device: torch.device, counted: Counted, *, with_sums: bool) -> torch.Tensor:
    base, finetuned = (side.to(device, non_blocking=True) for side in (span.base, span.finetuned))
    words = torch.zeros(word_count(finetuned.numel()), dtype=torch.int32, device=device)
    counts = kernel_for([Segment(finetuned, base, words)], rules)()
    counted.integers[span.row] += counts.integers[0].cpu()
    floats = counts.floats[0].cpu()
    counted.floats[span.row, SQUARED_NORM] += floats[SQUARED_NORM]
    counted.floats[span.row, MAX_ABS] = torch.maximum(counted.floats[span.row, MAX_ABS], floats[MAX_ABS])
    if with_sums:
        counted.sums[span.row] += span_sums(base, rules.visible_dtype, span.first)
    return words.cpu()
