"""A mask that is being made: on disk beside the file that it will be, as it has no bound in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from monitor.errors import CheckpointError
from monitor.observe.bits import BITS_PER_WORD

_WORD_BYTES = BITS_PER_WORD // 8


class MaskSpill:
    """The words of some parameters' masks, one after the other.

    Args:
        target: the mask file that is made; the spill lies beside it.
        rank: of the process that writes.
    """

    def __init__(self, target: Path, rank: int) -> None:
        self.path = spill_path(target, rank)
        self._file = self.path.open("wb")

    def append(self, words: torch.Tensor) -> None:
        """Write the words of a span, int32 in host memory.

        Raises:
            OSError: there is no space, for example.
        """
        self._file.write(words.numpy().data)

    def close(self) -> None:
        """End writing.

        Raises:
            OSError: there is no space, for example.
        """
        self._file.close()

    def remove(self) -> None:
        """Take the file away."""
        # What could not be written is of no interest any more.
        with suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)


def spill_path(target: Path, rank: int) -> Path:
    """Return where a process leaves its part of the mask `target`."""
    return target.with_name(f".{target.name}.rank-{rank:05d}.partial")


@dataclass(frozen=True)
class Spilled:
    """What all processes have left of a mask.

    Attributes:
        target: the mask file that is made.
        names: the parameters of each process, in the order in which it wrote them.
        words: parameter → number of its words.
    """

    target: Path
    names: Sequence[Sequence[str]]
    words: Mapping[str, int]

    def read(self) -> Iterator[torch.Tensor]:
        """Return the words of one parameter after the other, in the order of the processes.

        Raises:
            CheckpointError: the part of a process is not here.
        """
        for rank, names in enumerate(self.names):
            path = spill_path(self.target, rank)
            if not path.exists():
                raise CheckpointError(
                    f"what rank {rank} has written of the mask is not at {str(path)!r}; expected one file system for "
                    "all processes. Write the mask to a shared one."
                )
            with path.open("rb") as file:
                for name in names:
                    data = file.read(self.words[name] * _WORD_BYTES)
                    if len(data) != self.words[name] * _WORD_BYTES:
                        raise CheckpointError(
                            f"{str(path)!r} is cut short; another process has written to it. Run again."
                        )
                    yield torch.from_numpy(np.frombuffer(bytearray(data), dtype=np.int32))
