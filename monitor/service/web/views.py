"""Live state and history → what the API answers and the pages show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from monitor.service.live.runs import LiveRun
from monitor.service.quantities.counts import Totals, add_up, base_squares, sparsity
from monitor.service.quantities.families import COUNTS
from monitor.service.quantities.labels import criterion_label, group_labels, metric_label_names
from monitor.service.settings import ServiceSettings
from monitor.service.storage.stored import StoredItem
from monitor.service.web.api import (
    Counts,
    GroupJson,
    ObservationJson,
    ParentJson,
    ReferenceJson,
    RunDetailJson,
    RunJson,
    Sparsities,
    ThinnedJson,
    ToleranceJson,
    TransferJson,
    VerdictJson,
    WholeSparsities,
)
from monitor.wire.monitor_pb2 import Observation, Registration

T = TypeVar("T")


def run_json(run: LiveRun, now: float, settings: ServiceSettings) -> RunJson:
    """Describe a run as it stands at `now`."""
    registration, latest = run.registration, run.latest
    totals = run.totals
    return RunJson(
        run_id=run.run_id,
        name=registration.name,
        model=registration.model,
        base=registration.base.source,
        base_fingerprint=registration.base.fingerprint,
        base_mode=registration.base.mode,
        labels=dict(registration.labels),
        metric_label_names=metric_label_names(registration.labels),
        library_versions=dict(registration.library_versions),
        criterion=criterion_label(registration.criterion),
        visible_dtype=registration.visible_dtype,
        stored_dtypes=list(registration.stored_dtypes),
        attempt=registration.attempt,
        resumed_from_step=registration.resumed_from_step,
        parent=None if run.parent is None else ParentJson(run_id=run.parent.run_id, step=run.parent.step),
        started_at=registration.started_at,
        state=run.state(now, settings),
        reason=run.finish.reason if run.finish else "",
        stopped_by=run.finish.stopped_by if run.finish else "",
        step=run.step,
        planned_steps=run.planned_steps,
        last_observed_at=latest.observation.observed_at if latest else None,
        last_heard_at=run.heard_at,
        clock_ahead_seconds=run.clocks.ahead,
        observations=run.observations,
        dropped_items=run.dropped_items,
        unsent_items=run.unsent_items,
        weights=run.weights,
        trained_weights=totals.trained_weights,
        verdict=_verdict(run),
        thinned=thinned_json(run),
        deleted_at=run.deleted_at,
        **_whole_sparsities(totals, run.weights).model_dump(),
    )


def _verdict(run: LiveRun) -> VerdictJson | None:
    if run.latest is None or not run.latest.observation.HasField("verdict"):
        return None
    told = run.latest.observation.verdict
    return VerdictJson(kind=told.kind, step=run.step, reason=told.reason)


def thinned_json(run: LiveRun) -> ThinnedJson | None:
    """Describe what was taken out between the observations of a run, None if nothing was."""
    if run.thinned is None:
        return None
    return ThinnedJson(every=run.thinned.every, until_step=run.thinned.until_step, removed=run.thinned.removed)


def run_detail_json(run: LiveRun, now: float, settings: ServiceSettings) -> RunDetailJson:
    """Describe a run with its groups."""
    registration = (run.latest or run).registration
    observation = run.latest.observation if run.latest else Observation()
    totals = run.totals
    return RunDetailJson(
        **run_json(run, now, settings).model_dump(),
        counts=Counts(**totals.counts),
        at_tolerances=_at_tolerances(totals, registration),
        references=_references(totals, registration),
        update_norm=totals.update_norm,
        update_max_abs=totals.update_max_abs,
        relative_norm=totals.relative_norm,
        synchronisation=_transfer(totals),
        training_metrics={name: metric.value for name, metric in run.training_metrics.items()},
        groups=groups_json(observation, registration, totals.trained),
    )


def observation_json(stored: StoredItem, run: LiveRun) -> ObservationJson:
    """Describe one observation of a run over all groups."""
    registration = run.registrations[stored.position.attempt]
    observation = stored.item.observation
    totals = add_up(observation, registration)
    return ObservationJson(
        attempt=stored.position.attempt,
        step=observation.step,
        stride=observation.stride,
        observed_at=observation.observed_at,
        trained_weights=totals.trained_weights,
        counts=Counts(**totals.counts),
        at_tolerances=_at_tolerances(totals, registration),
        references=_references(totals, registration),
        update_norm=totals.update_norm,
        update_max_abs=totals.update_max_abs,
        relative_norm=totals.relative_norm,
        synchronisation=_transfer(totals),
        **_whole_sparsities(totals, run.weights).model_dump(),
    )


def _transfer(totals: Totals) -> TransferJson | None:
    transfer = totals.transfer
    if transfer is None:
        return None
    return TransferJson(
        between=transfer.between.value,
        step=transfer.step,
        previous_step=transfer.previous_step,
        changed=transfer.changed,
        changed_ratio=totals.changed_ratio,
        sparse_bytes=transfer.sparse_bytes,
        dense_bytes=transfer.dense_bytes,
    )


def _sparsities(counts: Mapping[str, int], trained: int) -> Sparsities:
    changed, step_changed = counts.get("changed"), counts.get("step_changed")
    return Sparsities(cumulative_sparsity=sparsity(changed, trained), step_sparsity=sparsity(step_changed, trained))


def _whole_sparsities(totals: Totals, weights: int) -> WholeSparsities:
    measured = weights - totals.counts.get("unmeasured", 0)
    return WholeSparsities(
        **_sparsities(totals.counts, totals.trained_weights).model_dump(),
        whole_model_cumulative_sparsity=sparsity(totals.counts.get("changed"), measured),
    )


def _at_tolerances(totals: Totals, registration: Registration) -> list[ToleranceJson]:
    weights = totals.trained_weights
    pairs = zip(registration.tolerances, totals.changed_at, strict=True)
    return [
        ToleranceJson(tolerance=tolerance, changed=changed, cumulative_sparsity=sparsity(changed, weights))
        for tolerance, changed in pairs
    ]


def _references(totals: Totals, registration: Registration) -> list[ReferenceJson]:
    return [
        ReferenceJson(
            name=reference.name,
            weights=overlap.weights,
            intersection=overlap.intersection,
            expected_intersection=overlap.expected_intersection,
        )
        for reference, overlap in zip(registration.references, totals.references, strict=True)
    ]


def groups_json(observation: Observation, registration: Registration, trained: Sequence[int]) -> list[GroupJson]:
    arrays = {name: array for name in COUNTS if (array := getattr(observation, name))}
    labels = group_labels(registration.groups)
    base = base_squares(observation, registration)
    described = []
    for index, (group, (label, module)) in enumerate(zip(registration.groups, labels, strict=True)):
        counts = {name: array[index] for name, array in arrays.items()}
        described.append(
            GroupJson(
                stack=group.stack,
                layer=group.layer if group.HasField("layer") else None,
                label=label,
                module=module,
                weights=group.weights,
                frozen_weights=group.weights - trained[index],
                trained_weights=trained[index],
                counts=Counts(**counts),
                sync_changed=_at(observation.synchronisation.changed, index),
                relative_norm=_relative(_at(observation.squared_norm, index), _at(base, index)),
                references=_references_of_group(index, observation, registration),
                **_sparsities(counts, trained[index]).model_dump(),
            )
        )
    return described


def _references_of_group(index: int, observation: Observation, registration: Registration) -> list[ReferenceJson]:
    described = []
    for number, reference in enumerate(registration.references):
        counts = observation.references[number] if observation.references else None
        described.append(
            ReferenceJson(
                name=reference.name,
                weights=reference.weights[index],
                intersection=_at(counts.intersection if counts else [], index),
                expected_intersection=_at(counts.expected_intersection if counts else [], index),
            )
        )
    return described


def _relative(update_squared: float | None, base_squared: float | None) -> float | None:
    if update_squared is None or not base_squared:
        return None
    return math.sqrt(update_squared / base_squared)


def _at(values: Sequence[T], index: int) -> T | None:
    return values[index] if values else None
