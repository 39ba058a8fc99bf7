"""The series that the groups of a run have, and which runs have to do without them when there are too many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from monitor.service.live.runs import LiveRun
from monitor.service.quantities.counts import base_squares
from monitor.service.quantities.families import COUNTS


class GroupArray(NamedTuple):
    """One value per group, in the order of the group table.

    Attributes:
        family: name of the metric, without the prefix.
        reference: name of the reference mask it is about, None if it is about none.
    """

    family: str
    reference: str | None
    values: Sequence[float]


def group_arrays(run: LiveRun) -> list[GroupArray]:
    """Return everything that is known per group. What was not measured is left out."""
    groups = run.registration.groups
    frozen = [group.weights - trained for group, trained in zip(groups, run.totals.trained, strict=True)]
    arrays = [
        GroupArray("group_weights", None, [group.weights for group in groups]),
        GroupArray("group_frozen_weights", None, frozen),
    ]
    if run.latest is not None:
        observation = run.latest.observation
        for name in COUNTS:
            arrays.append(GroupArray(f"group_{name}_weights", None, getattr(observation, name)))
        # Between observations, it is what `step_changed` says.
        arrays.append(GroupArray("group_sync_changed_weights", None, observation.synchronisation.changed))
        arrays.append(GroupArray("group_squared_update_norm", None, observation.squared_norm))
        base = base_squares(observation, run.latest.registration)
        arrays.append(GroupArray("group_squared_base_norm", None, base))
    arrays += _reference_arrays(run)
    return [array for array in arrays if array.values]


def _reference_arrays(run: LiveRun) -> list[GroupArray]:
    # Those of the attempt that made the observation: attempts may differ in their references.
    references = (run.latest or run).registration.references
    arrays = [GroupArray("group_reference_weights", each.name, each.weights) for each in references]
    if run.latest is None:
        return arrays
    for each, counts in zip(references, run.latest.observation.references, strict=False):
        arrays.append(GroupArray("group_reference_intersection_weights", each.name, counts.intersection))
        expected = "group_reference_expected_intersection_weights"
        arrays.append(GroupArray(expected, each.name, counts.expected_intersection))
    return arrays


def roll_up(sizes: Mapping[str, int], room: int) -> set[str]:
    """Return the keys to leave out, the largest first, until the sizes of the others fit into `room`.

    >>> roll_up({"small": 10, "large": 70, "middle": 40}, room=60)
    {'large'}
    """
    left_out: set[str] = set()
    total = sum(sizes.values())
    for key in sorted(sizes, key=lambda each: (-sizes[each], each)):
        if total <= room:
            break
        total -= sizes[key]
        left_out.add(key)
    return left_out
