"""Weights that must stay as they are: a base that is used where it is, and what is frozen.

A write in place raises a tensor's version, which is read at every observation. One through `.data`, as PEFT merges,
does not: so a share of the weights is summed up at each observation, and all of them at checkpoints and at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch

from monitor.observe.borrowed import borrow
from monitor.observe.chunk_sizes import BYTES_SUMMED_AT_LEAST
from monitor.observe.kernels.transfer import to_device
from monitor.observe.weights.presence import is_there

# Observations after which all weights have been summed up once.
_ROUND = 32
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Untouched:
    """Notices when weights are written to.

    Args:
        read: name → returns the weights, as they are now.
    """

    def __init__(self, read: Mapping[str, Callable[[], torch.Tensor]]) -> None:
        self._read = dict(read)
        now = {name: weights() for name, weights in self._read.items()}
        self._sizes = {name: weights.numel() for name, weights in now.items()}
        self._sums = {name: bit_sum(weights) for name, weights in now.items()}
        self._writes = {name: writes(weights) for name, weights in now.items()}
        self._bytes = {name: weights.numel() * weights.element_size() for name, weights in now.items()}
        self._next = 0

    def read_from(self, read: Mapping[str, Callable[[], torch.Tensor]]) -> None:
        """Read some of the weights from elsewhere; what is not watched is not."""
        self._read |= {name: weights for name, weights in read.items() if name in self._read}

    def forget(self, names: Iterable[str]) -> None:
        """Watch these no longer."""
        for name in set(names) & set(self._read):
            for kept in (self._read, self._sizes, self._sums, self._writes, self._bytes):
                kept.pop(name)

    def _due(self) -> list[str]:
        """Return the names of what is to be summed up now: what was written to, and what it is the turn of."""
        written = []
        for name, weights in self._read.items():
            if (now := writes(weights())) != self._writes[name]:
                # It may be the same values again, as when a checkpoint is loaded.
                self._writes[name] = now
                written.append(name)
        return list(dict.fromkeys([*written, *self._take_turn()]))

    def _take_turn(self) -> list[str]:
        names, size = list(self._read), 0
        taken: list[str] = []
        enough = max(sum(self._bytes.values()) / _ROUND, BYTES_SUMMED_AT_LEAST)
        while len(taken) < len(names) and size < enough:
            name = names[self._next % len(names)]
            taken.append(name)
            size += self._bytes[name]
            self._next += 1
        return taken

    def count_moved(self) -> torch.Tensor | None:
        """Sum up what was written to and a share of the rest, without waiting for a device.

        Returns:
            how many of these are not what they were, int64 of shape (), on a device of theirs; None without any.
        """
        moved = [flag for name in self._due() if (flag := self._is_moved(name)) is not None]
        if not moved:
            return None
        # On a GPU if there is one: what comes from there to the host without waiting is not there yet.
        device = next((flag.device for flag in moved if flag.device.type != "cpu"), moved[0].device)
        here = (to_device(flag, device) if flag.device.type == "cpu" else flag.to(device) for flag in moved)
        return torch.stack(list(here)).sum()

    def moved(self, names: Iterable[str] | None = None) -> list[str]:
        """Return the names of those, or of all, that are not what they were; waits for the device."""
        looked_at = self._read if names is None else [name for name in names if name in self._read]
        return [name for name in looked_at if (flag := self._is_moved(name)) is not None and bool(flag)]

    def _is_moved(self, name: str) -> torch.Tensor | None:
        """None where the weights are elsewhere at the moment, as when they are offloaded."""
        weights = self._read[name]()
        if weights.numel() != self._sizes[name] or not is_there(weights):
            return None
        found = bit_sum(weights)
        return found != self._sums[name].to(found.device)


def writes(tensor: torch.Tensor) -> int:
    """Return how often a tensor was written to in place; where that is not counted, 0."""
    return 0 if tensor.is_inference() else int(tensor._version)


def bit_sum(weights: torch.Tensor) -> torch.Tensor:
    """Return the sum of the weights' bit patterns modulo 2⁶⁴, int64 of shape (), on their device."""
    flat = weights.detach().reshape(-1)
    if flat.device.type != "cpu":
        return flat.view(_INTEGERS[flat.element_size()]).sum(dtype=torch.int64)
    # By numpy, eight bytes at a time: torch would wake up its threads.
    data = borrow(flat).view(torch.uint8).numpy()
    whole = data.size // 8 * 8
    # Byte by byte, the rest would add up to the same where two of them are swapped, as those of 17.0 and 2.15 are.
    rest = np.zeros(8, np.uint8)
    rest[: data.size - whole] = data[whole:]
    # As an array, which wraps around in silence.
    total = rest.view(np.int64) + data[:whole].view(np.int64).sum()
    return torch.tensor(int(total[0]), dtype=torch.int64, device="cpu")
