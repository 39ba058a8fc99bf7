"""The specification, in plain torch, for any device. Readable rather than fast: it makes full-size intermediates.

Where the weights are on a GPU, nothing here lets the host wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monitor.observe.criterion import visible
from monitor.observe.kernels import low_byte
from monitor.observe.kernels.contract import BITS_PER_WORD, Counts, Rules, Segment, word_count

# An int32 for each bit of these takes 2 MB: masks of a whole model are packed, too. Pieces of 16 MB, that the C library
# takes from the system one by one, pile up in its heap to ten times that.
_WORDS_AT_A_TIME = 1 << 14


def pack(bits: torch.Tensor) -> torch.Tensor:
    """Pack booleans of shape (n,) into int32 words of shape (word_count(n),), the first weight in the lowest bit."""
    words = torch.empty(word_count(bits.numel()), dtype=torch.int32, device=bits.device)
    shifts = torch.arange(BITS_PER_WORD, device=bits.device, dtype=torch.int32)
    for start in range(0, words.numel(), _WORDS_AT_A_TIME):
        piece = words[start : start + _WORDS_AT_A_TIME]
        some = bits[start * BITS_PER_WORD : (start + piece.numel()) * BITS_PER_WORD]
        padded = torch.zeros(piece.numel() * BITS_PER_WORD, dtype=torch.int32, device=bits.device)
        padded[: some.numel()] = some
        # Different bits never carry, so that the sum is right to the sign.
        torch.sum(padded.view(-1, BITS_PER_WORD) << shifts, dim=1, dtype=torch.int32, out=piece)
    return words


def unpack(words: torch.Tensor, weights: int) -> torch.Tensor:
    """Return the first `weights` bits as booleans of shape (weights,)."""
    bits = torch.empty(words.numel(), BITS_PER_WORD, dtype=torch.bool, device=words.device)
    shifts = torch.arange(BITS_PER_WORD, device=words.device, dtype=torch.int32)
    for start in range(0, words.numel(), _WORDS_AT_A_TIME):
        some = slice(start, start + _WORDS_AT_A_TIME)
        bits[some] = (words[some].unsqueeze(1) >> shifts) & 1
    return bits.view(-1)[:weights]


def exceeds(difference: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Return where |difference| > tolerance. NaN exceeds every tolerance."""
    # A number, which unlike a tensor need not be copied to the device; in float32, as the difference is.
    limit = torch.tensor(tolerance, dtype=torch.float32, device="cpu").item()
    return ~(difference.abs() <= limit)


def measure(segments: Sequence[Segment], rules: Rules) -> Counts:
    """Measure each segment; see contract.py for shapes."""
    columns = [_measure_segment(segment, rules) for segment in segments]
    return Counts(
        torch.stack([integers for integers, _ in columns]),
        torch.stack([floats for _, floats in columns]),
    )


def _measure_segment(segment: Segment, rules: Rules) -> tuple[torch.Tensor, torch.Tensor]:
    stored = segment.current.detach().reshape(-1)
    current = visible(stored, rules.visible_dtype)
    kept_base = low_byte.nearest(segment.base, current) if segment.base.dtype == torch.uint8 else segment.base
    base = visible(kept_base, rules.visible_dtype)

    # By value: −0 = +0, and NaN differs from everything. Weights that do not differ have Δ = 0, infinities included.
    differs = current != base
    difference = torch.where(differs, current.float() - base.float(), 0.0)
    tolerance = rules.criterion.tolerance
    changed = differs if tolerance is None else differs & exceeds(difference, tolerance)
    was_changed = unpack(segment.mask, stored.numel())
    segment.mask.copy_(pack(changed))

    step_changed = touched = torch.zeros_like(changed)
    if segment.previous is not None and segment.touched is not None:
        # Always by bits: then a slow drift below the tolerance is still touched. What entered or left the update mask
        # has moved, even if its low byte is the same, as when a weight leaves zero: then Mₜ ⊆ Uₜ holds.
        step_changed = compare_previous(current, segment.previous) | (changed ^ was_changed)
        touched = unpack(segment.touched, stored.numel()) | step_changed
        segment.touched.copy_(pack(touched))

    integers = [
        changed,
        changed & ~was_changed,
        was_changed & ~changed,
        step_changed,
        touched,
        (stored != kept_base.to(stored.dtype)) & ~differs,
        ~torch.isfinite(current),
        *(differs & exceeds(difference, tolerance) for tolerance in rules.tolerances),
        *(changed & unpack(reference, stored.numel()) for reference in segment.references),
    ]
    finite = torch.where(torch.isfinite(difference), difference.double(), 0.0)
    maximum = finite.abs().max() if finite.numel() else finite.sum()
    return torch.stack([column.sum() for column in integers]), torch.stack([finite.square().sum(), maximum])


def compare_previous(current: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    """Return where visible weights differ from the previous ones, and keep the current ones in `previous`.

    Of low bytes, a difference that is a multiple of 256 representable steps is not seen. NaN always differs.
    """
    if previous.dtype == torch.uint8:
        low = low_byte.low_byte(current)
        differs = (low != previous) | current.isnan()
        previous.copy_(low)
    else:
        differs = current != previous
        previous.copy_(current)
    return differs
