"""Beside where two updates went, which way: the share of equal signs, and the cosine of the updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from monitor.analysis.masks.fitting import FittingMasks
from monitor.errors import MaskMismatchError
from monitor.observe.bits import BITS_PER_WORD, count_ones, unpack, word_count
from monitor.observe.criterion import Criterion, parse_visible_dtype, visible
from monitor.observe.kernels import kernel_for
from monitor.observe.kernels.contract import Rules, Segment
from monitor.observe.masks.file import MaskFile
from monitor.observe.observation import FloatArray, IntArray
from monitor.observe.overlap import ratio

# Weights whose updates are in memory as float64: 2 MB for each mask. A multiple of the bits of a word.
_CHUNK = 1 << 18
_DEFAULT_DTYPE = "bfloat16"


class Weights(Protocol):
    """The weights of a checkpoint under the model's own names."""

    source: str

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Parameter name → shape."""

    def read(self, name: str) -> torch.Tensor:
        """Return one parameter, in host memory."""


@dataclass(frozen=True)
class UpdateSums:
    """Sums over the visible updates Δ = b(θ) − b(θ₀) of m fine-tuned models, in p parameters.

    Weights of which any update is infinite or NaN are in no sum.

    Attributes:
        dot: float64 of shape (p, m, m): Σ ΔᵢΔⱼ.
        dot_in_both, squared_in_both: the same, and Σ Δᵢ² of the first of the two, over the weights in both masks.
        moved_in_both: int64 of shape (p, m, m): the weights in both masks that both updates move.
        same_sign: of these, those that both move the same way.
        not_finite: int64 of shape (p,): the weights that are in no sum.
    """

    dot: FloatArray
    dot_in_both: FloatArray
    squared_in_both: FloatArray
    moved_in_both: IntArray
    same_sign: IntArray
    not_finite: IntArray

    @classmethod
    def zeros(cls, parameters: int, masks: int) -> UpdateSums:
        """Return sums of nothing yet."""
        shape = (parameters, masks, masks)
        a, b, c = (np.zeros(shape, dtype=np.float64) for _ in range(3))
        moved, same = (np.zeros(shape, dtype=np.int64) for _ in range(2))
        return cls(a, b, c, moved, same, np.zeros(parameters, dtype=np.int64))

    def agreement(self, a: int, b: int, parameters: Sequence[int]) -> UpdateAgreement:
        """Return how far two updates agree, over the parameters at some positions."""
        chosen = list(parameters)

        def total(sums: FloatArray, first: int, other: int) -> float:
            return math.fsum(sums[chosen, first, other].tolist())

        return UpdateAgreement(
            same_sign=int(self.same_sign[chosen, a, b].sum()),
            moved_in_both=int(self.moved_in_both[chosen, a, b].sum()),
            cosine=cosine(total(self.dot, a, b), total(self.dot, a, a), total(self.dot, b, b)),
            cosine_in_both=cosine(
                total(self.dot_in_both, a, b), total(self.squared_in_both, a, b), total(self.squared_in_both, b, a)
            ),
            not_finite=int(self.not_finite[chosen].sum()),
        )


@dataclass(frozen=True)
class UpdateAgreement:
    """How far two updates go the same way.

    Attributes:
        same_sign: weights in both masks that both updates move the same way.
        moved_in_both: weights in both masks that both updates move.
        cosine: of the two updates as vectors of all weights, −1 to 1.
        cosine_in_both: of the weights in both masks alone.
        not_finite: weights left out, because an update of them is infinite or NaN.

    Ratios are NaN where their denominator is 0.
    """

    same_sign: int
    moved_in_both: int
    cosine: float
    cosine_in_both: float
    not_finite: int

    @property
    def sign_agreement(self) -> float:
        """Share of the weights moved in both that move the same way, 0 to 1; a coin gives 0.5."""
        return ratio(self.same_sign, self.moved_in_both)


def cosine(dot: float, squared: float, other_squared: float) -> float:
    """Return Σab ÷ √(Σa² · Σb²), NaN where one is 0."""
    # Two roots: the product of the squares leaves the range of float64 sooner.
    return ratio(dot, math.sqrt(squared) * math.sqrt(other_squared))


def sum_updates(
    masks: FittingMasks,
    base: Weights,
    finetuned: Sequence[Weights],
    device: torch.device,
    advance: Callable[[int], None],
) -> UpdateSums:
    """Sum up the updates that the masks are of; in memory is one parameter of each model.

    Args:
        finetuned: the weights of each mask, in the order of the masks.
        advance: called with the number of weights that were read since.

    Raises:
        MaskMismatchError: a mask is not the one of these weights, or covers a parameter that they lack.
        CheckpointError, MaskFileError: a file is damaged.
    """
    sums = UpdateSums.zeros(len(masks.shapes), len(masks.files))
    for weights in (base, *finetuned):
        _check_covered(masks, weights)
    for row, name in enumerate(masks.shapes):
        start = base.read(name).to(device)
        current = [weights.read(name).to(device) for weights in finetuned]
        for path, file, end in zip(masks.paths, masks.files, current, strict=True):
            _check_is_mask_of(path, file, name, start, end)
        dtypes = [_dtype_of(file) for file in masks.files]
        for chunk, updates in _updates(start.reshape(-1), [end.reshape(-1) for end in current], dtypes):
            inside = torch.stack(list(_bits(masks.files, name, chunk))).to(device)
            _add_chunk(sums, row, updates, inside)
        advance(start.numel())
    return sums


def _check_covered(masks: FittingMasks, weights: Weights) -> None:
    for name, shape in masks.shapes.items():
        found = weights.shapes.get(name)
        if found != shape:
            said = "is not" if found is None else f"is of shape {list(found)}"
            raise MaskMismatchError(
                f"the masks cover {name}, of shape {list(shape)}, which {said} in {weights.source!r}. Expected the "
                "weights that the masks were taken from: --base BASE, and --finetuned once for each mask."
            )


def _check_is_mask_of(path: str, file: MaskFile, name: str, base: torch.Tensor, current: torch.Tensor) -> None:
    """Check, where the mask says how it was measured, that it is the one of these weights, to the bit."""
    if not file.metadata.criterion:
        return
    words = torch.zeros(word_count(current.numel()), dtype=torch.int32, device=current.device)
    rules = Rules(_dtype_of(file), Criterion.parse(file.metadata.criterion))
    kernel_for([Segment(current, base.reshape(-1), words)], rules)()
    if others := count_ones(words.cpu() ^ file.read(name)):
        raise MaskMismatchError(
            f"{path!r} is not the mask of the weights that were given for it: they differ in {others:,} of the "
            f"{current.numel():,} weights of {name}. Expected the base and the weights that it was taken from, "
            "--finetuned in the order of the masks; `sparsity-monitor diff` makes the mask of two checkpoints."
        )


def _dtype_of(file: MaskFile) -> torch.dtype:
    return parse_visible_dtype(file.metadata.visible_dtype or _DEFAULT_DTYPE)


def _updates(
    base: torch.Tensor, finetuned: Sequence[torch.Tensor], dtypes: Sequence[torch.dtype]
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield chunks of the weights, with their updates as float64 of shape (m, n)."""
    for first in range(0, base.numel(), _CHUNK):
        chunk = slice(first, min(first + _CHUNK, base.numel()))
        ends = zip(finetuned, dtypes, strict=True)
        yield chunk, torch.stack([_update(base[chunk], end[chunk], dtype) for end, dtype in ends])


def _update(base: torch.Tensor, current: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    before, after = visible(base, dtype), visible(current, dtype)
    # Of equal infinities, too, nothing has moved.
    return torch.where(after != before, after.double() - before.double(), 0.0)


def _bits(files: Sequence[MaskFile], name: str, chunk: slice) -> Iterator[torch.Tensor]:
    first, last = chunk.start // BITS_PER_WORD, word_count(chunk.stop)
    for file in files:
        yield unpack(file.read(name, first, last), chunk.stop - chunk.start)


def _add_chunk(sums: UpdateSums, row: int, updates: torch.Tensor, inside: torch.Tensor) -> None:
    """Add some weights: updates of shape (m, n), and whether each is in each mask."""
    finite = updates.isfinite().all(dim=0)
    sums.not_finite[row] += int((~finite).sum())
    updates = torch.where(finite, updates, 0.0)
    sums.dot[row] += (updates @ updates.T).cpu().numpy()
    kept = torch.where(inside, updates, 0.0)
    sums.dot_in_both[row] += (kept @ kept.T).cpu().numpy()
    sums.squared_in_both[row] += (kept.square() @ inside.double().T).cpu().numpy()
    # Products of signs, −1, 0 or 1: their sum is what agrees less what does not, and whole numbers are exact.
    signs = kept.sign()
    moved = signs.abs()
    both = (moved @ moved.T).cpu().numpy()
    sums.moved_in_both[row] += both.astype(np.int64)
    sums.same_sign[row] += ((both + (signs @ signs.T).cpu().numpy()) / 2).astype(np.int64)
