"""What a weight sync would have to transfer: what changed and where, or every weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import add, gt

from monitor.wire.monitor_pb2 import Observation, Registration

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
        changed: visible weights that differ between the two, per group.
        sparse_bytes: what changed and where, in each group in the way that takes least; dense_bytes: every weight,
            frozen ones included. None where weights have not 16 bits, or some are unmeasured.
    """

    between: Between
    step: int
    previous_step: int
    changed: tuple[int, ...]
    sparse_bytes: int | None
    dense_bytes: int | None

    @property
    def steps(self) -> int:
        """Optimizer steps between the two."""
        return self.step - self.previous_step


class TransferSizes:
    """What every transfer of a model is measured by, from its registration."""

    def __init__(self, registration: Registration) -> None:
        weights = [group.weights for group in registration.groups]
        self._has_sixteen_bits = registration.visible_dtype in _SIXTEEN_BITS
        self._dense = [_VALUE_BYTES * each for each in weights]
        self._mask = [-(-each // 8) for each in weights]
        # Up to as many changes, indices and values take least.
        self._most_for_indices = [
            min(mask // _INDEX_BYTES, dense // (_INDEX_BYTES + _VALUE_BYTES))
            for mask, dense in zip(self._mask, self._dense, strict=True)
        ]

    def transfer_of(self, observation: Observation) -> Transfer | None:
        """Return the transfer of the latest weight sync, or of one at each observation where none is told.

        None where nothing says what changed.
        """
        if observation.HasField("synchronisation"):
            sync = observation.synchronisation
            between, step, previous, changed = Between.SYNCS, sync.step, sync.previous_step, sync.changed
        else:
            previous = max(observation.step - observation.stride, 0)
            between, step, changed = Between.OBSERVATIONS, observation.step, observation.step_changed
        if not changed:
            return None
        sparse = dense = None
        if self._has_sixteen_bits and not any(observation.unmeasured):
            sparse, dense = self._sparse_bytes(changed), sum(self._dense)
        return Transfer(between, step, previous, tuple(changed), sparse, dense)

    def _sparse_bytes(self, changed: Sequence[int]) -> int:
        """Return Σ min(6k, N/8 + 2k, 2N), of k changes: indices and values, a bit per weight and values, or all values.

        Source: arXiv 2602.03839.
        """
        if not any(map(gt, changed, self._most_for_indices)):
            # So it is wherever updates are sparse, and this is faster.
            return (_INDEX_BYTES + _VALUE_BYTES) * sum(changed)
        values = [_VALUE_BYTES * each for each in changed]
        with_indices = [(_INDEX_BYTES + _VALUE_BYTES) * each for each in changed]
        return sum(map(min, with_indices, map(add, self._mask, values), self._dense))
