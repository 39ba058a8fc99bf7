"""What a weight sync would have to transfer: what changed and where, or every weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from monitor.service.quantities.arrays import Arrays, Counts, counts_of, exact_sums
from monitor.wire.monitor_pb2 import Registration

# Of one visible weight; the formulas are of 16-bit values alone.
_VALUE_BYTES = 2
_INDEX_BYTES = 4
_SIXTEEN_BITS = ("bfloat16", "float16")


class Between(StrEnum):
    """What the changes of a transfer lie between: weight syncs of the trainer, or else observations."""

    SYNCS = "syncs"
    OBSERVATIONS = "observations"


@dataclass(frozen=True, slots=True)
class Transfer:
    """What changed from some weights to later ones, and what it takes to bring the former up to date.

    Attributes:
        step, previous_step: of the later weights and of the earlier ones.
        changed: visible weights that differ between the two, over all groups.
        sparse_bytes: what changed and where, in each group in the way that takes least; dense_bytes: every weight,
            frozen ones included. None where weights have not 16 bits, or some are unmeasured.
    """

    between: Between
    step: int
    previous_step: int
    changed: int
    sparse_bytes: int | None
    dense_bytes: int | None

    @property
    def steps(self) -> int:
        """Optimizer steps between the two."""
        return self.step - self.previous_step


class _Sizes(NamedTuple):
    """See Transfer."""

    changed: int
    sparse_bytes: int | None
    dense_bytes: int | None


class TransferSizes:
    """What every transfer of a model is measured by, from its registration."""

    def __init__(self, registration: Registration) -> None:
        weights = [group.weights for group in registration.groups]
        self._has_sixteen_bits = registration.visible_dtype in _SIXTEEN_BITS
        dense = [_VALUE_BYTES * each for each in weights]
        mask = [-(-each // 8) for each in weights]
        self._dense_bytes = sum(dense)
        self._dense, self._mask = counts_of(dense), counts_of(mask)
        # Up to as many changes, indices and values take least; up to as many, a mask takes less than all values.
        both = list(zip(mask, dense, strict=True))
        with_index = _INDEX_BYTES + _VALUE_BYTES
        self._most_for_indices = counts_of([min(m // _INDEX_BYTES, d // with_index) for m, d in both])
        self._most_for_mask = counts_of([(d - m) // _VALUE_BYTES for m, d in both])

    def transfers_of(self, arrays: Arrays) -> list[Transfer | None]:
        """Return of each observation the transfer of the latest weight sync, or of one at each where none is told.

        None where nothing says what changed.
        """
        at_sync = self._sizes_of(arrays, arrays.synchronised)
        at_step = None
        found: list[Transfer | None] = []
        for index, observation in enumerate(arrays.observations):
            if observation.HasField("synchronisation"):
                sync = observation.synchronisation
                between, step, previous, sizes = Between.SYNCS, sync.step, sync.previous_step, at_sync
            else:
                at_step = at_step or self._sizes_of(arrays, arrays.counts.get("step_changed"))
                previous = max(observation.step - observation.stride, 0)
                between, step, sizes = Between.OBSERVATIONS, observation.step, at_step
            found.append(Transfer(between, step, previous, *sizes[index]) if sizes else None)
        return found

    def _sizes_of(self, arrays: Arrays, changed: Counts | None) -> list[_Sizes]:
        """Return how large each of some transfers is; nothing where what changed is not known."""
        if changed is None:
            return []
        sparse: Sequence[int | None] = [None] * len(changed)
        if self._has_sixteen_bits:
            sparse = self._sparse_bytes(changed)
        if (unmeasured := arrays.counts.get("unmeasured")) is not None:
            sparse = [
                None if some else each for some, each in zip(unmeasured.max(axis=-1).tolist(), sparse, strict=True)
            ]
        return [
            _Sizes(weights, each, None if each is None else self._dense_bytes)
            for weights, each in zip(exact_sums(changed), sparse, strict=True)
        ]

    def _sparse_bytes(self, changed: Counts) -> list[int]:
        """Return Σ min(6k, N/8 + 2k, 2N), of k changes: indices and values, a bit per weight and values, or all values.

        Source: arXiv 2602.03839.
        """
        fit = changed <= self._most_for_indices
        if fit.all():
            # So it is wherever updates are sparse, and this is faster.
            return [(_INDEX_BYTES + _VALUE_BYTES) * weights for weights in exact_sums(changed)]
        # Chosen before they are multiplied: what is not chosen may be beyond 64 bits.
        with_mask = np.where(changed <= self._most_for_mask, self._mask + _VALUE_BYTES * changed, self._dense)
        return exact_sums(np.where(fit, (_INDEX_BYTES + _VALUE_BYTES) * changed, with_mask))
