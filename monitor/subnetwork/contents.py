"""What a mask is: how many ones it has where, and an identity that a resumed training recognises it by."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from monitor.errors import ConfigurationError, shown
from monitor.observe.bits import count_ones, word_count
from monitor.observe.chunk_sizes import WORDS_OF_A_FILE
from monitor.observe.masks.file import MaskFile
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.masks.references import ReferenceMask


@dataclass(frozen=True)
class Contents:
    """What one pass through a mask finds.

    Attributes:
        ones: parameter name → number of ones.
        identity: 32 hexadecimal digits, of names, shapes and bits; not of where the mask comes from.
    """

    ones: dict[str, int]
    identity: str

    @classmethod
    def of(cls, mask: ReferenceMask) -> Contents:
        """Read a mask once, in pieces of a few megabytes.

        Raises:
            MaskFileError: its file is damaged.
        """
        ones, total = {}, hashlib.sha256()
        for name in sorted(mask.shapes):
            total.update(json.dumps([name, list(mask.shapes[name])]).encode())
            ones[name] = 0
            for words in _pieces(mask, name):
                ones[name] += count_ones(words)
                total.update(words.numpy().tobytes())
        return cls(ones, total.hexdigest()[:32])


def _pieces(mask: ReferenceMask, name: str) -> Iterator[torch.Tensor]:
    words = word_count(math.prod(mask.shapes[name]))
    for first in range(0, words, WORDS_OF_A_FILE):
        yield mask.read(name, first, first + WORDS_OF_A_FILE).cpu()


def open_mask(given: object) -> UpdateMask | MaskFile:
    """Return the mask that a user gives: as it is, or from its file.

    Raises:
        ConfigurationError: it is neither a mask nor a path.
        MaskFileError: the file is not one that holds a mask.
    """
    if isinstance(given, UpdateMask | MaskFile):
        return given
    if not isinstance(given, str | os.PathLike):
        raise ConfigurationError(f"mask is {shown(given)}; expected an UpdateMask, or the path of its file.")
    return MaskFile(given)
