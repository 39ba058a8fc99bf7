"""Live state and curves → the JSON of /api/v1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from monitor.service.api import GroupJson
from monitor.service.counts import add_up
from monitor.service.curves.fields import AT_TOLERANCE, FIELDS, LOGGED, NAMED, OVERLAP_LIFT, OVERLAP_O1, OVERLAP_O2
from monitor.service.curves.thinned import Curve
from monitor.service.interface.models import CurveJson, FieldJson, GroupCurveJson, GroupsJson
from monitor.service.labels import criterion_label
from monitor.service.live import LiveRun
from monitor.service.stored import StoredItem
from monitor.service.views import groups_json

_UNITS = {AT_TOLERANCE: "ratio", OVERLAP_O1: "ratio", OVERLAP_O2: "ratio", OVERLAP_LIFT: "", LOGGED: ""}
GROUP_FIELDS = (
    "cumulative_sparsity",
    "step_sparsity",
    "changed",
    "newly_changed",
    "reverted",
    "step_changed",
    "touched",
    "hidden",
    "non_finite",
    "unmeasured",
)
"""Quantities that each group has."""

PATTERN = f"^(({'|'.join(FIELDS)})$|({'|'.join(NAMED)}))"
"""What the name of a curve looks like, as a regular expression."""


def fields_of(run: LiveRun) -> list[FieldJson]:
    """Return what a run has curves of."""
    plain = [FieldJson(name=name, unit=field.unit, help=field.help) for name, field in FIELDS.items()]
    return plain + [FieldJson(name=name, unit=unit_of(name), help=help_of(name)) for name in _names_of_its_own(run)]


def _names_of_its_own(run: LiveRun) -> Iterator[str]:
    registrations = run.registrations.values()
    for tolerance in dict.fromkeys(each for registration in registrations for each in registration.tolerances):
        yield f"{AT_TOLERANCE}{tolerance!r}"
    for name in dict.fromkeys(each.name for registration in registrations for each in registration.references):
        yield from (OVERLAP_O1 + name, OVERLAP_O2 + name, OVERLAP_LIFT + name)
    yield from (LOGGED + name for name in sorted(run.training_metrics))


def unit_of(name: str) -> str:
    """Return the unit of a curve."""
    return FIELDS[name].unit if name in FIELDS else _UNITS[_kind(name)]


def help_of(name: str) -> str:
    """Return what a curve shows, in a sentence."""
    return FIELDS[name].help if name in FIELDS else NAMED[_kind(name)]


def is_field(name: str) -> bool:
    """Return whether a run can have such a curve."""
    return name in FIELDS or any(name.startswith(kind) for kind in NAMED)


def _kind(name: str) -> str:
    return next(kind for kind in NAMED if name.startswith(kind))


def curve_json(name: str, curve: Curve) -> CurveJson:
    """Describe one curve."""
    return CurveJson(
        unit=unit_of(name),
        help=help_of(name),
        step=curve.step,
        time=curve.time,
        min=curve.minimum,
        max=curve.maximum,
        last=curve.last,
    )


def groups_at(stored: StoredItem, run: LiveRun) -> GroupsJson:
    """Describe the groups of a run at an observation."""
    registration = run.registrations[stored.position.attempt]
    observation = stored.item.observation
    return GroupsJson(
        run_id=run.run_id,
        criterion=criterion_label(registration.criterion),
        visible_dtype=registration.visible_dtype,
        attempt=stored.position.attempt,
        step=observation.step,
        stride=observation.stride,
        observed_at=observation.observed_at,
        groups=_groups(stored, run),
    )


def group_curves(
    observations: Sequence[StoredItem], run: LiveRun, field: str, wanted: Iterable[tuple[str, str]]
) -> list[GroupCurveJson]:
    """Return one quantity of each group, or of those that are wanted by label and module, over the observations."""
    chosen = set(wanted)
    curves: dict[tuple[str, str], list[float | None]] = {}
    for number, stored in enumerate(observations):
        for group in _groups(stored, run):
            key = (group.label, group.module)
            if not chosen or key in chosen:
                curves.setdefault(key, [None] * len(observations))[number] = _value(group, field)
    return [GroupCurveJson(label=label, module=module, values=values) for (label, module), values in curves.items()]


def _groups(stored: StoredItem, run: LiveRun) -> list[GroupJson]:
    registration = run.registrations[stored.position.attempt]
    observation = stored.item.observation
    return groups_json(observation, registration, add_up(observation, registration).trained)


def _value(group: GroupJson, field: str) -> float | None:
    of: Mapping[str, float | None] = group.counts.model_dump()
    value: float | None = of[field] if field in of else getattr(group, field)
    return value
