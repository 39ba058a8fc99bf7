"""Observations and run descriptions as messages of the wire contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from monitor.report.messages.numbers import Number
from monitor.wire import monitor_pb2 as pb

if TYPE_CHECKING:  # at run time the uploader imports this package, and must not load torch
    from monitor.observe.criterion import Criterion
    from monitor.observe.observation import FloatArray, IntArray, Observation, Synchronisation
    from monitor.observe.weights.groups import Group
    from monitor.verdict import Verdict

_MAX_STRIDE = 2**32 - 1


def group_messages(groups: Sequence[Group]) -> list[pb.Group]:
    """Return the group table as messages."""
    return [
        pb.Group(
            layer=group.layer,
            module=group.module,
            weights=group.weights,
            frozen_weights=group.frozen_weights,
            stack=group.stack,
        )
        for group in groups
    ]


def reference_messages(weights: Mapping[str, IntArray]) -> list[pb.Reference]:
    """Return the reference masks' names and sizes per group as messages."""
    return [pb.Reference(name=name, weights=counts.tolist()) for name, counts in weights.items()]


def criterion_message(criterion: Criterion) -> pb.Criterion:
    """Return the criterion as a message."""
    if criterion.tolerance is None:
        return pb.Criterion(bits=pb.Criterion.Bits())
    return pb.Criterion(atol=pb.Criterion.Atol(tolerance=criterion.tolerance))


def observation_message(
    observation: Observation,
    registered: Sequence[pb.Group] = (),
    registered_norm: Sequence[float] = (),
    verdict: Verdict | None = None,
) -> pb.Observation:
    """Return the observation as a message; what was not measured stays empty.

    Args:
        observation: what was counted.
        registered: the group table of the attempt's registration. What trains is sent where it differs from that.
        registered_norm: the registration's base_squared_norm; the observation's is sent where it differs from that.
        verdict: what it means, if that is known.
    """
    trained = [group.trained_weights for group in observation.groups]
    base_squared_norm = _optional(observation.base_squared_norm)
    return pb.Observation(
        step=observation.step,
        observed_at=observation.observed_at,
        # Where a loop counts tokens as steps, it may be more than the message holds.
        stride=min(observation.stride, _MAX_STRIDE),
        changed=observation.changed.tolist(),
        newly_changed=observation.newly_changed.tolist(),
        reverted=observation.reverted.tolist(),
        step_changed=_optional(observation.step_changed),
        touched=_optional(observation.touched),
        hidden=observation.hidden.tolist(),
        non_finite=observation.non_finite.tolist(),
        changed_at=[pb.Counts(weights=counts.tolist()) for counts in observation.changed_at.values()],
        references=[
            pb.ReferenceCounts(
                intersection=counts.intersection.tolist(),
                expected_intersection=counts.expected_intersection.tolist(),
            )
            for counts in observation.references.values()
        ],
        squared_norm=observation.squared_norm.tolist(),
        max_abs=observation.max_abs.tolist(),
        host_seconds=observation.host_seconds,
        device_seconds=observation.device_seconds,
        monitor_bytes=observation.monitor_bytes,
        trained=trained if trained != [group.weights - group.frozen_weights for group in registered] else [],
        unmeasured=_optional(observation.unmeasured),
        synchronisation=_synchronisation_message(observation.synchronisation),
        base_squared_norm=base_squared_norm if base_squared_norm != list(registered_norm) else [],
        verdict=None if verdict is None else pb.Verdict(kind=verdict.kind, reason=verdict.reason),
    )


def _synchronisation_message(synchronisation: Synchronisation | None) -> pb.Synchronisation | None:
    if synchronisation is None:
        return None
    return pb.Synchronisation(
        step=synchronisation.step,
        previous_step=synchronisation.previous_step,
        changed=synchronisation.changed.tolist(),
    )


def _optional(counts: IntArray | FloatArray | None) -> list[Any]:
    return [] if counts is None else counts.tolist()


def training_log_message(step: int, logged_at: float, metrics: Mapping[str, Number]) -> pb.TrainingLog:
    """Return what the trainer logged as a message; waits for numbers that are on their way from a device."""
    return pb.TrainingLog(
        step=step, logged_at=logged_at, metrics={name: float(number) for name, number in metrics.items()}
    )
