"""The whole of a comparison: alone, or split over the processes that torchrun started."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import torch
import torch.distributed as dist

from monitor.analysis.diff.counting import Counted, Progress, best_device, count
from monitor.analysis.diff.difference import Difference, fingerprint_rows
from monitor.analysis.diff.spill import MaskSpill, Spilled
from monitor.analysis.pairs import Pairs
from monitor.observe.base.fingerprint import fingerprint_of
from monitor.observe.bits import word_count
from monitor.observe.criterion import dtype_name
from monitor.observe.kernels.contract import Rules
from monitor.observe.masks.file import MaskMetadata, write_mask
from monitor.observe.ranks import Ranks, join_ranks


@contextmanager
def processes() -> Iterator[Ranks]:
    """Join the processes that torchrun started together with this one; alone where it was not torchrun."""
    started_together = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ
    if not started_together:
        yield join_ranks(torch.device("cpu"))
        return
    dist.init_process_group("gloo")
    try:
        yield join_ranks(torch.device("cpu"))
    finally:
        dist.destroy_process_group()


def difference(
    pairs: Pairs,
    rules: Rules,
    ranks: Ranks,
    *,
    mask: Path | None = None,
    device: torch.device | None = None,
    progress: Progress = lambda _: None,
) -> Difference:
    """Compare two checkpoints, the same on all processes, which all must call this.

    Args:
        pairs: the checkpoints.
        rules: how to compare.
        ranks: the processes; each compares some of the parameters.
        mask: where the update mask goes, on a file system that all processes have; None for none.
        device: where to measure; by default a GPU, where there is one.
        progress: told how many bytes this process has measured since it was told last.

    Raises:
        CheckpointError: a file cannot be read.
        SparsityMonitorError: another process failed.
        OSError: the mask cannot be written.
    """
    shares = split(pairs, ranks.world)
    device = device or best_device(int(os.environ.get("LOCAL_RANK", "0")))
    spill = ranks.all_or_none(lambda: None if mask is None else MaskSpill(mask, ranks.rank))
    try:
        mine = ranks.all_or_none(
            lambda: count(pairs, shares[ranks.rank], rules, device, spill=spill, progress=progress)
        )
        counted = _together(mine, shares, ranks)
        fingerprint = "" if mask is None else fingerprint_of(fingerprint_rows(pairs, counted.sums))
        if mask is not None:
            spilled = Spilled(mask, shares, {name: word_count(_weights(pairs, name)) for name in pairs.names})
            ranks.all_or_none(lambda: _join(spilled, pairs, rules, fingerprint) if ranks.rank == 0 else None)
        return Difference.of(pairs, rules, counted, fingerprint)
    finally:
        if spill is not None:
            spill.remove()


def split(pairs: Pairs, world: int) -> list[list[str]]:
    """Return the parameters of each process: neighbours in the model, of about the same number of weights together."""
    weights = [_weights(pairs, name) for name in pairs.names]
    total = max(sum(weights), 1)
    shares: list[list[str]] = [[] for _ in range(world)]
    for name, size, end in zip(pairs.names, weights, accumulate(weights), strict=True):
        middle = end - size / 2
        shares[min(int(middle * world / total), world - 1)].append(name)
    return shares


def _weights(pairs: Pairs, name: str) -> int:
    return math.prod(pairs.finetuned.parameters[name].shape)


def _together(mine: Counted, shares: Sequence[Sequence[str]], ranks: Ranks) -> Counted:
    """Put the rows of all processes one after the other, which is the order of the model."""
    first = sum(len(names) for names in shares[: ranks.rank])
    rows = sum(len(names) for names in shares)
    whole = {
        name: torch.zeros(rows, part.shape[1], dtype=torch.int64, device="cpu")
        for name, part in (("integers", mine.integers), ("floats", mine.floats), ("sums", mine.sums))
    }
    for name, part in vars(mine).items():
        # Bits of floats beside zeros: nothing is rounded on the way.
        whole[name][first : first + len(part)] = part.view(torch.int64)
    together = {name: ranks.sum(part) for name, part in whole.items()}
    return Counted(together["integers"], together["floats"].view(torch.float64), together["sums"])


def _join(spilled: Spilled, pairs: Pairs, rules: Rules, fingerprint: str) -> None:
    metadata = MaskMetadata(str(rules.criterion), dtype_name(rules.visible_dtype), fingerprint)
    shapes = {name: pairs.finetuned.shapes[name] for name in pairs.names}
    write_mask(spilled.target, spilled.read(), shapes, vars(metadata))
