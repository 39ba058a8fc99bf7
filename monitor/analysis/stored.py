"""A tensor on disk: where it lies, what it is like, and how it is read, without a map of the file into memory.

The pages of a map count as memory of the process, and where the file is cut short meanwhile, a bus error ends it.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from monitor.errors import CheckpointError

# What one read of the system takes, on Linux a little less than 2³¹ bytes.
_BYTES_AT_ONCE = 1 << 30


class OpenFile:
    """A file that stays open, so that it stays the same one; threads may read it side by side. It closes with us."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror}.") from error

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._descriptor).st_size

    def read_into(self, target: torch.Tensor, start: int) -> None:
        """Fill a contiguous tensor in host memory with the bytes from `start` on.

        Raises:
            CheckpointError: the file ends before that, or cannot be read.
        """
        if not target.numel():
            return
        room = target.view(-1).view(torch.uint8).numpy().data
        done = 0
        while done < len(room):
            try:
                count = os.preadv(self._descriptor, [room[done : done + _BYTES_AT_ONCE]], start + done)
            except OSError as error:
                raise CheckpointError(f"cannot read {str(self.path)!r}: {error.strerror}.") from error
            if not count:
                raise CheckpointError(
                    f"{str(self.path)!r} is cut short: it ends at byte {start + done}, and its header promises more. "
                    "Copy or download it again."
                )
            done += count


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        file: where it is.
        start: byte at which its first weight is.
        dtype: how it is stored.
        shape: its shape.
        strides: in elements, where it does not lie there in row-major order; else None.
    """

    file: OpenFile
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None

    @property
    def count(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def read(self) -> torch.Tensor:
        """Return the tensor, contiguous, in host memory.

        Raises:
            CheckpointError: the file cannot be read.
        """
        if self.strides is not None:
            return self._read_strided().contiguous()
        tensor = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        self.file.read_into(tensor, self.start)
        return tensor

    def read_span(self, first: int, target: torch.Tensor) -> None:
        """Fill `target`, contiguous and of this dtype, with the weights from `first` on, in row-major order."""
        if self.strides is not None:
            target.view(-1).copy_(self.read().view(-1)[first : first + target.numel()])
        else:
            self.file.read_into(target, self.start + first * self.dtype.itemsize)

    def _read_strided(self) -> torch.Tensor:
        strides = self.strides or ()
        last = sum((size - 1) * stride for size, stride in zip(self.shape, strides, strict=True))
        span = torch.empty(last + 1 if self.count else 0, dtype=self.dtype, device="cpu")
        self.file.read_into(span, self.start)
        return span.as_strided(self.shape, strides)
