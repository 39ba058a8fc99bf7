"""The processes that train together: their counts meet in one integer all-reduce."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from monitor.errors import ConfigurationError, SparsityMonitorError
from monitor.observe.kernels.contract import Counts, floats_of_all
from monitor.observe.meeting import meet

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
# Numbers that each process sends beside its counts: nanoseconds that the last observation cost, and since it began;
# whether parameters are not where they were, so that nothing was counted; how many parameters moved that must not.
NOTES = 4
# How long a process waits for the others' counts before it says so.
_PATIENCE = timedelta(seconds=30)
# In the place of a step.
_FAILED = -1


class Ranks(ABC):
    """The processes that train together. All of them must call the same methods in the same order.

    Attributes:
        rank: which of the processes this is, from 0.
        world: number of processes.
    """

    rank: int
    world: int

    @abstractmethod
    def sum(self, counts: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes of an int64 tensor, maybe in place."""

    @abstractmethod
    def raise_on_all(self, error: Exception | None) -> None:
        """Raise `error`; where it is None, raise the news that another process has one, or return if none has."""

    @abstractmethod
    def send(
        self, measure: Callable[[], Counts], notes: torch.Tensor, segments: int, columns: int, step: int
    ) -> torch.Tensor:
        """Return what all processes counted, as one int64 tensor for `receive`, without waiting for the device.

        Args:
            measure: counts on this process: integers of shape (segments, columns), floats of shape (segments, 2).
            step: from 0, the same on all processes.
            notes: int64 of shape (NOTES,), which are added up over the processes.
        """

    @abstractmethod
    def receive(self, sent: torch.Tensor, segments: int, columns: int) -> tuple[Counts, list[int]]:
        """Return the counts of all processes together, and the sums of their notes, from what `send` returned.

        Raises:
            SparsityMonitorError: measuring failed on another process, or is at another step there.
        """

    def all_or_none(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns here; when it raises on one process, raise on all."""
        try:
            result = work()
        except Exception as error:
            self.raise_on_all(error)
            raise
        self.raise_on_all(None)
        return result

    def all_say(self, answer: bool) -> bool:
        """Return whether the answer is yes on every process."""
        return int(self.sum(torch.tensor([int(answer)], device="cpu"))) == self.world

    def anywhere(self, found: Collection[str], names: Sequence[str]) -> list[str]:
        """Return which of the names, the same on all processes, were found on any of them."""
        here = torch.tensor([name in found for name in names], dtype=torch.int64, device="cpu")
        return [name for name, somewhere in zip(names, self.sum(here).tolist(), strict=True) if somewhere]

    def rows(self, numbers: list[int]) -> torch.Tensor:
        """Return the numbers of each process, as many on all of them, as int64 of shape (world, numbers)."""
        rows = torch.zeros(self.world, len(numbers), dtype=torch.int64, device="cpu")
        rows[self.rank] = torch.tensor(numbers, dtype=torch.int64, device="cpu")
        return self.sum(rows).cpu()

    def from_first(self, text: str) -> str:
        """Return the text of the first process, which is not empty; what the others give does not matter."""
        data = list(text.encode()) if self.rank == 0 else []
        size = int(self.sum(torch.tensor([len(data)], device="cpu")))
        sent = torch.tensor(data or [0] * size, dtype=torch.int64, device="cpu")
        return bytes(self.sum(sent).tolist()).decode()

    def texts(self, text: str) -> list[str]:
        """Return the text of each process, in their order."""
        data = text.encode()
        sizes = self.rows([len(data)])[:, 0].tolist()
        # Eight bytes to a number.
        padded = data.ljust(-(-max(sizes) // 8) * 8, b"\0")
        words = torch.frombuffer(bytearray(padded), dtype=torch.int64).tolist() if padded else []
        rows = self.rows(words)
        return [bytes(row.view(torch.uint8).tolist())[:size].decode() for row, size in zip(rows, sizes, strict=True)]

    def all_have(self, value: object) -> bool:
        """Return whether the value, told by its repr, is the same on every process."""
        rows = self.rows([digest(value)])
        return bool(rows.eq(rows[0]).all())

    def sum_floats(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes of a float64 tensor of shape (n,), the same to the bit on all of them."""
        # As integers, since that is what is added up; and in the order of the processes.
        rows = self.rows(values.cpu().view(torch.int64).tolist())
        return rows.view(torch.float64).sum(dim=0)

    def sum_of(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return the sum of what `work` returns, int64, over all processes; when it raises on one, raise on all."""
        return self.sum(self.all_or_none(work))


class Alone(Ranks):
    """One process: nothing to exchange."""

    rank = 0
    world = 1

    def sum(self, counts: torch.Tensor) -> torch.Tensor:
        """Return the tensor itself."""
        return counts

    def raise_on_all(self, error: Exception | None) -> None:
        """Raise `error`, if there is one."""
        if error is not None:
            raise error

    def send(
        self, measure: Callable[[], Counts], notes: torch.Tensor, segments: int, columns: int, step: int
    ) -> torch.Tensor:
        """Return notes, integers and the bits of the floats, one after the other."""
        counts = measure()
        bits = counts.floats.view(torch.int64)
        return torch.cat([notes.to(bits.device), counts.integers.reshape(-1), bits.reshape(-1)])

    def receive(self, sent: torch.Tensor, segments: int, columns: int) -> tuple[Counts, list[int]]:
        """Take apart what `send` returned."""
        notes, integers, bits = torch.split(sent, [NOTES, segments * columns, segments * 2])
        floats = bits.view(torch.float64).view(segments, 2)
        return Counts(integers.view(segments, columns), floats), notes.tolist()


class Together(Ranks):
    """The processes of a process group, over a group of their own where that is the default one.

    A group of its own, because a collective of the training that is still under way must not be mixed with ours. It has
    the default group's timeout: a process that is stuck holds the others up for as long as in the training itself.

    Args:
        device: where the weights are.
        group: the processes that train together, which all make this; None for all of the default group.

    Raises:
        ConfigurationError: this process is not in the group, or some of its processes have not come.
    """

    def __init__(self, device: torch.device, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ConfigurationError(
                f"rank {dist.get_rank()} is not in the process_group that is given. Make the observer where it is."
            )
        self._members: list[int] = dist.get_process_group_ranks(group or dist.group.WORLD)
        timeout = _timeout(device)
        meet(self._members, timeout)
        self._device, self._group = device, group
        if group is None:
            self._group = dist.new_group(backend="gloo" if device.type == "cpu" else None, timeout=timeout)
        elif device.type not in (kinds := [kind.type for kind in group._device_types]):
            # Weights in host memory, and a group that only knows GPUs.
            self._device = torch.device(kinds[0])

    def sum(self, counts: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes of an int64 tensor, in place on the training's device."""
        here = counts.to(self._device)
        work = dist.all_reduce(here, op=dist.ReduceOp.SUM, group=self._group, async_op=True)
        if self._device.type == "cpu":
            self._wait_and_tell(work)
        else:
            # The stream waits, not the host.
            work.wait()
        return here

    def _wait_and_tell(self, work: dist.Work) -> None:
        try:
            work.wait(_PATIENCE)
        except RuntimeError:
            if work.is_completed():
                raise
            logger.warning(
                "sparsity-monitor: rank %d has waited %.0f s for the other processes of %s. What observes on several "
                "processes has to be called on all of them, in the same order: observe(step), update_mask(), "
                "save_touched(), and the rest.",
                self._members[self.rank],
                _PATIENCE.total_seconds(),
                self._members,
            )
            work.wait()

    def raise_on_all(self, error: Exception | None) -> None:
        """Raise `error`, or which processes have one, after all have told the others."""
        states = torch.zeros(self.world, dtype=torch.int64, device="cpu")
        states[self.rank] = _FAILED if error is not None else 0
        self._raise(self.sum(states).tolist(), error)

    def _raise(self, states: list[int], error: Exception | None) -> None:
        if error is not None:
            raise error
        if failed := [self._members[i] for i, state in enumerate(states) if state == _FAILED]:
            raise SparsityMonitorError(f"the monitor failed on ranks {failed}; their logs say why")
        if len(set(states)) > 1:
            at = ", ".join(f"{step} on rank {self._members[i]}" for i, step in enumerate(states))
            raise SparsityMonitorError(f"the processes observe at different steps: {at}. Expected the same one on all.")

    def send(
        self, measure: Callable[[], Counts], notes: torch.Tensor, segments: int, columns: int, step: int
    ) -> torch.Tensor:
        """Return steps or failures, notes, integers and the bits of the floats, summed over all processes.

        One all-reduce carries everything. Sums of floats would depend on the order in which they meet, so that each
        process puts the bits of its own into a row of zeros, and everybody adds up the same rows in the same order.
        """
        error = None
        counts = Counts(
            torch.zeros(segments, columns, dtype=torch.int64, device="cpu"),
            torch.zeros(segments, 2, dtype=torch.float64, device="cpu"),
        )
        try:
            counts = measure()
        except Exception as failure:  # noqa: BLE001 - raised below, after the others have heard of it
            error = failure
        states = torch.zeros(self.world, dtype=torch.int64, device=self._device)
        # `states[self.rank] = …` copies a number from the host, which waits for the whole pass then.
        states[self.rank].fill_(step if error is None else _FAILED)
        floats = torch.zeros(self.world, segments, 2, dtype=torch.float64, device=self._device)
        floats[self.rank] = counts.floats.to(self._device)
        integers = counts.integers.to(self._device).reshape(-1)
        sent = [states, notes.to(self._device), integers, floats.view(torch.int64).reshape(-1)]
        together = self.sum(torch.cat(sent))
        if error is not None:
            raise error
        return together

    def receive(self, sent: torch.Tensor, segments: int, columns: int) -> tuple[Counts, list[int]]:
        """Take apart what `send` returned, and add up the floats of all processes."""
        sizes = [self.world, NOTES, segments * columns, self.world * segments * 2]
        states, notes, integers, bits = torch.split(sent, sizes)
        self._raise(states.tolist(), None)
        rows = bits.view(torch.float64).view(self.world, segments, 2)
        return Counts(integers.view(segments, columns), floats_of_all(rows)), notes.tolist()


def digest(value: object) -> int:
    """Return 64 bits that are the same on every process which has a value of the same repr."""
    return int.from_bytes(hashlib.sha256(repr(value).encode()).digest()[:8], "little", signed=True)


def _timeout(device: torch.device) -> timedelta | None:
    """Return the default group's timeout on the device, or else on another; None where its backend does not tell.

    torch has no public way to ask for it, and gives a new group that of the backend's kind instead.
    """
    group: Any = dist.group.WORLD
    for kind in (torch.device(device.type), *group._device_types):
        try:
            return cast(timedelta, group._get_backend(kind).options._timeout)
        except (AttributeError, RuntimeError):
            continue
    return None


def join_ranks(device: torch.device, group: dist.ProcessGroup | None = None) -> Ranks:
    """Return the processes that train together. With several of them, all must call this at the same point.

    Args:
        device: where the weights are.
        group: the processes that train together; None for all of the default process group.

    Raises:
        ConfigurationError: this process is not in the group, or some of its processes have not come.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size(group) != 1:
        return Together(device, group)
    return Alone()
