"""What a weight sync would have to transfer: what changed and where, or every weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

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


def transfer_of(observation: Observation, registration: Registration) -> Transfer | None:
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
    if registration.visible_dtype in _SIXTEEN_BITS and not any(observation.unmeasured):
        weights = [group.weights for group in registration.groups]
        sparse, dense = sparse_bytes(zip(changed, weights, strict=True)), _VALUE_BYTES * sum(weights)
    return Transfer(between, step, previous, tuple(changed), sparse, dense)


def sparse_bytes(groups: Iterable[tuple[int, int]]) -> int:
    """Return Σ min(6k, N/8 + 2k, 2N): indices and values, a bit per weight and values, or all values.

    Source: arXiv 2602.03839.

    >>> [sparse_bytes([(k, 3200)]) for k in (0, 100, 101, 3000, 3001)]
    [0, 600, 602, 6400, 6400]

    Args:
        groups: k of N 16-bit weights that changed, of each group.
    """
    index_and_value = _INDEX_BYTES + _VALUE_BYTES
    return sum(
        min(index_and_value * changed, -(-weights // 8) + _VALUE_BYTES * changed, _VALUE_BYTES * weights)
        for changed, weights in groups
    )
