"""Live state and curves → the JSON of /api/v1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from monitor.service.api import GroupJson
from monitor.service.counts import Summation, sparsity
from monitor.service.curves.fields import (
    AT_TOLERANCE,
    FIELDS,
    LOGGED,
    NAMED,
    OVERLAP_LIFT,
    OVERLAP_O1,
    OVERLAP_O2,
    Field,
)
from monitor.service.curves.thinned import Curve
from monitor.service.families import COUNTS
from monitor.service.interface.models import CurveJson, FieldJson, GroupCurveJson, GroupsJson
from monitor.service.labels import criterion_label, group_labels
from monitor.service.live import LiveRun
from monitor.service.stored import StoredItem
from monitor.service.views import groups_json
from monitor.wire.monitor_pb2 import Observation

GROUP_FIELDS = ("cumulative_sparsity", "step_sparsity", *COUNTS)
"""Quantities that each group has."""

_COUNTED = {"cumulative_sparsity": "changed", "step_sparsity": "step_changed"}

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
    return _field(name).unit


def help_of(name: str) -> str:
    """Return what a curve shows, in a sentence."""
    return _field(name).help


def is_field(name: str) -> bool:
    """Return whether a run can have such a curve."""
    return name in FIELDS or any(name.startswith(kind) for kind in NAMED)


def _field(name: str) -> Field:
    return FIELDS[name] if name in FIELDS else next(NAMED[kind] for kind in NAMED if name.startswith(kind))


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


class GroupCurves:
    """One quantity of each group, or of those that are wanted by label and module, over observations."""

    def __init__(self, field: str, wanted: Iterable[tuple[str, str]]) -> None:
        self.step: list[int] = []
        self._field, self._wanted = field, set(wanted)
        self._attempts: dict[int, tuple[list[tuple[str, str]], Summation]] = {}
        self._curves: dict[tuple[str, str], list[float | None]] = {}

    def add(self, observations: Iterable[StoredItem], run: LiveRun) -> None:
        """Add observations of a run, later ones than before."""
        for stored in observations:
            attempt = stored.position.attempt
            if attempt not in self._attempts:
                registration = run.registrations[attempt]
                self._attempts[attempt] = group_labels(registration.groups), Summation(registration)
            labels, summation = self._attempts[attempt]
            values = _values(stored.item.observation, summation, self._field)
            for key, value in zip(labels, values, strict=True):
                if not self._wanted or key in self._wanted:
                    curve = self._curves.setdefault(key, [])
                    curve += [None] * (len(self.step) - len(curve))
                    curve.append(value)
            self.step.append(stored.position.step)

    def json(self) -> list[GroupCurveJson]:
        """Describe them."""
        return [
            GroupCurveJson(label=label, module=module, values=values + [None] * (len(self.step) - len(values)))
            for (label, module), values in self._curves.items()
        ]


def _values(observation: Observation, summation: Summation, field: str) -> Sequence[float | None]:
    """Return one quantity of each group, and nothing else: a large model has 20,000."""
    counts: Sequence[int] = getattr(observation, _COUNTED.get(field, field))
    if not counts:
        return [None] * len(summation.registration.groups)
    if field not in _COUNTED:
        return counts
    return list(map(sparsity, counts, summation.trained(observation)))


def _groups(stored: StoredItem, run: LiveRun) -> list[GroupJson]:
    registration = run.registrations[stored.position.attempt]
    observation = stored.item.observation
    return groups_json(observation, registration, Summation(registration).trained(observation))
