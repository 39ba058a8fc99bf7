"""One observation of the wire contract as rows: over all groups, and of each group and reference mask."""

from __future__ import annotations

from collections.abc import Iterator

from monitor.service.quantities.counts import Summation, Totals, sparsity, total_weights
from monitor.service.quantities.families import COUNTS
from monitor.service.quantities.fields import AT_TOLERANCE, FIELDS
from monitor.service.quantities.labels import group_labels
from monitor.wire.monitor_pb2 import Observation, Registration

Row = dict[str, object]

RATIOS = ("cumulative_sparsity", "step_sparsity")
_COUNTED = {"cumulative_sparsity": "changed", "step_sparsity": "step_changed"}
OBSERVATION_COLUMNS = ("step", "time", "attempt", *FIELDS)
GROUP_COLUMNS = ("step", "layer", "module", "weights", *RATIOS, *COUNTS)
REFERENCE_COLUMNS = ("step", "name", "weights", "intersection", "overlap_o1", "overlap_o2", "lift")


def observation_row(observation: Observation, summation: Summation) -> Row:
    """Return every quantity over all groups, under the names that /api/v1 has for their curves."""
    totals, registration = summation.totals(observation), summation.registration
    row: Row = dict.fromkeys(FIELDS) | dict(totals.counts) | _derived(totals, registration)
    row["trained"] = totals.trained_weights
    for name in ("update_norm", "update_max_abs", "relative_norm", "changed_ratio"):
        row[name] = getattr(totals, name)
    if totals.transfer is not None:
        row |= {"sparse_bytes": totals.transfer.sparse_bytes, "dense_bytes": totals.transfer.dense_bytes}
    for name in ("host_seconds", "device_seconds", "monitor_bytes", "stride"):
        row[name] = getattr(observation, name)
    for tolerance, changed in zip(registration.tolerances, totals.changed_at, strict=True):
        row[f"{AT_TOLERANCE}{tolerance!r}"] = sparsity(changed, totals.trained_weights)
    return row


def _derived(totals: Totals, registration: Registration) -> Row:
    changed, touched = totals.counts.get("changed"), totals.counts.get("touched")
    measured = total_weights(registration) - totals.counts.get("unmeasured", 0)
    return {
        "cumulative_sparsity": sparsity(changed, totals.trained_weights),
        "step_sparsity": sparsity(totals.counts.get("step_changed"), totals.trained_weights),
        "whole_model_cumulative_sparsity": sparsity(changed, measured),
        "transient": None if touched is None or changed is None else touched - changed,
    }


def group_rows(observation: Observation, summation: Summation) -> Iterator[Row]:
    """Return what is counted in each group, in the order of the model."""
    trained, groups = summation.trained(observation), summation.registration.groups
    counts = {name: array for name in COUNTS if (array := getattr(observation, name))}
    for index, (layer, module) in enumerate(group_labels(groups)):
        row: Row = dict.fromkeys(GROUP_COLUMNS)
        row |= {"step": observation.step, "layer": layer, "module": module}
        row |= {name: array[index] for name, array in counts.items()}
        row["weights"] = groups[index].weights
        row |= {
            ratio: sparsity(counts[count][index], trained[index])
            for ratio, count in _COUNTED.items()
            if count in counts
        }
        yield row


def reference_rows(observation: Observation, summation: Summation) -> Iterator[Row]:
    """Return the overlap with each reference mask, over all groups; nothing where it was not measured."""
    totals = summation.totals(observation)
    changed = totals.counts.get("changed")
    for reference, overlap in zip(summation.registration.references, totals.references, strict=True):
        if overlap.intersection is None:
            continue
        yield {
            "step": observation.step,
            "name": reference.name,
            "weights": overlap.weights,
            "intersection": overlap.intersection,
            "overlap_o1": _share(overlap.intersection, changed),
            "overlap_o2": _share(overlap.intersection, overlap.weights),
            "lift": _share(overlap.intersection, overlap.expected_intersection),
        }


def _share(part: float, whole: float | None) -> float | None:
    return part / whole if whole else None
