"""The processes that train together: their counts meet in one integer all-reduce."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from monitor.errors import SparsityMonitorError
from monitor.observe.kernels.contract import MAX_ABS, SQUARED_NORM, Counts

Result = TypeVar("Result")


class Alone:
    """One process: nothing to exchange."""

    rank = 0
    world = 1

    def sum(self, counts: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes of an int64 tensor, in place."""
        return counts

    def agree(self, error: Exception | None) -> None:
        """Raise `error`, or the news that another process has one, on every process alike."""
        if error is not None:
            raise error

    def alike(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns here; when it raises on one process, raise on all."""
        try:
            result = work()
        except Exception as error:
            self.agree(error)
            raise
        self.agree(None)
        return result

    def total(self, measure: Callable[[], Counts], segments: int, columns: int) -> Counts:
        """Return the counts of all processes together; when measuring fails on one, it fails on all.

        Args:
            measure: counts on this process: integers of shape (segments, columns), floats of shape (segments, 2).
        """
        return measure()


class Together(Alone):
    """All processes of the default process group, over a group of their own.

    A group of its own, because a collective of the training that is still under way must not be mixed with ours. It has
    the default group's timeout: a process that dies holds the others up for as long as it does in the training itself.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        self._device = device
        self._group = dist.new_group(backend="gloo" if device.type == "cpu" else None)

    def sum(self, counts: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes of an int64 tensor, in place on the training's device."""
        here = counts.to(self._device)
        dist.all_reduce(here, op=dist.ReduceOp.SUM, group=self._group)
        return here

    def agree(self, error: Exception | None) -> None:
        """Raise `error`, or the news that another process has one, on every process alike."""
        failed = torch.zeros(self.world, dtype=torch.int64)
        failed[self.rank] = int(error is not None)
        self._raise_alike(self.sum(failed), error)

    def _raise_alike(self, failed: torch.Tensor, error: Exception | None) -> None:
        if error is not None:
            raise error
        if ranks := failed.nonzero().flatten().tolist():
            raise SparsityMonitorError(f"the monitor failed on ranks {ranks}; their logs say why")

    def total(self, measure: Callable[[], Counts], segments: int, columns: int) -> Counts:
        """Return the counts of all processes together; when measuring fails on one, it fails on all.

        One all-reduce carries everything. Sums of floats would depend on the order in which they meet, so that each
        process puts the bits of its own into a row of zeros, and everybody adds up the same rows in the same order.
        """
        error = None
        counts = Counts(
            torch.zeros(segments, columns, dtype=torch.int64), torch.zeros(segments, 2, dtype=torch.float64)
        )
        try:
            counts = measure()
        except Exception as failure:  # noqa: BLE001 - raised below, on every process
            error = failure
        failed = torch.zeros(self.world, dtype=torch.int64)
        failed[self.rank] = int(error is not None)
        floats = torch.zeros(self.world, segments, 2, dtype=torch.float64)
        floats[self.rank] = counts.floats.cpu()
        sent = [failed, counts.integers.cpu().reshape(-1), floats.view(torch.int64).reshape(-1)]
        failed, integers, bits = torch.split(self.sum(torch.cat(sent)).cpu(), [part.numel() for part in sent])
        self._raise_alike(failed, error)
        rows = bits.view(torch.float64).view(self.world, segments, 2)
        together = torch.stack([rows[:, :, SQUARED_NORM].sum(dim=0), rows[:, :, MAX_ABS].amax(dim=0)], dim=1)
        return Counts(integers.view(segments, columns), together)


def join_ranks(device: torch.device) -> Alone:
    """Return the processes that train together. With several of them, all must call this at the same point."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return Together(device)
    return Alone()
