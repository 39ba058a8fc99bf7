"""Live state and curves → the JSON of /api/v1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from monitor.service.live.runs import LiveRun
from monitor.service.quantities.counts import Summation, sparsity
from monitor.service.quantities.families import COUNTS
from monitor.service.quantities.fields import (
    AT_TOLERANCE,
    FIELDS,
    LOGGED,
    NAMED,
    OVERLAP_LIFT,
    OVERLAP_O1,
    OVERLAP_O2,
    Field,
)
from monitor.service.quantities.labels import criterion_label, group_labels
from monitor.service.storage.queries.curves import Curve
from monitor.service.storage.stored import StoredItem
from monitor.service.web.api import GroupJson
from monitor.service.web.interface.models import AttemptJson, CurveJson, FieldJson, GroupCurveJson, GroupsJson
from monitor.service.web.views import groups_json
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


def attempts_of(run: LiveRun) -> list[AttemptJson]:
    """Return the attempts of a run that are registered, in their order."""
    return [
        AttemptJson(attempt=number, resumed_from_step=each.resumed_from_step, started_at=each.started_at)
        for number, each in sorted(run.registrations.items())
    ]


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


def incomparable(runs: Sequence[LiveRun]) -> str | None:
    """Return why curves of these runs do not compare, None if they do."""
    ways = {(criterion_label(run.registration.criterion), run.registration.visible_dtype) for run in runs}
    if len(ways) == 1:
        return None
    shown = "; ".join(sorted(f"{criterion} in {dtype}" for criterion, dtype in ways))
    return f"these runs count changed weights differently: {shown}. Compare runs of one criterion and visible dtype"


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
    """One quantity of each group, or of those that are wanted by label and module, over observations.

    Args:
        by_layer: of all these groups with one label together, under an empty module.
    """

    def __init__(self, field: str, wanted: Iterable[tuple[str, str]], *, by_layer: bool) -> None:
        self.step: list[int] = []
        self._field, self._wanted, self._by_layer = field, set(wanted), by_layer
        self._attempts: dict[int, tuple[list[tuple[str, str]], Summation]] = {}
        self._curves: dict[tuple[str, str], list[float | None]] = {}

    def add(self, observations: Iterable[StoredItem], run: LiveRun) -> None:
        """Add observations of a run, later ones than before."""
        for stored in observations:
            attempt = stored.position.attempt
            if attempt not in self._attempts:
                registration = run.registrations[attempt]
                self._attempts[attempt] = group_labels(registration.groups), Summation(registration)
            for key, value in self._values(stored.item.observation, *self._attempts[attempt]):
                curve = self._curves.setdefault(key, [])
                curve += [None] * (len(self.step) - len(curve))
                curve.append(value)
            self.step.append(stored.position.step)

    def _values(
        self, observation: Observation, labels: list[tuple[str, str]], summation: Summation
    ) -> Iterator[tuple[tuple[str, str], float | None]]:
        """Yield one quantity of each group or layer, and nothing else: a large model has 20,000 groups."""
        counts: Sequence[int] = getattr(observation, _COUNTED.get(self._field, self._field))
        trained: Sequence[int] = summation.trained(observation) if self._field in _COUNTED else counts
        measured = bool(counts)
        if not measured:
            counts = trained = [0] * len(labels)
        rows = zip(labels, counts, trained, strict=True)
        chosen = (row for row in rows if not self._wanted or row[0] in self._wanted)
        for key, count, weights in _by_layer(chosen) if self._by_layer else chosen:
            yield key, None if not measured else sparsity(count, weights) if self._field in _COUNTED else count

    def json(self) -> list[GroupCurveJson]:
        """Describe them."""
        return [
            GroupCurveJson(label=label, module=module, values=values + [None] * (len(self.step) - len(values)))
            for (label, module), values in self._curves.items()
        ]


def _by_layer(
    rows: Iterable[tuple[tuple[str, str], int, int]],
) -> Iterator[tuple[tuple[str, str], int, int]]:
    """Add up the counts and the trained weights of each layer, in the order in which layers begin."""
    counts: dict[str, int] = {}
    trained: dict[str, int] = {}
    for (label, _), count, weights in rows:
        counts[label] = counts.get(label, 0) + count
        trained[label] = trained.get(label, 0) + weights
    for label, count in counts.items():
        yield (label, ""), count, trained[label]


def _groups(stored: StoredItem, run: LiveRun) -> list[GroupJson]:
    registration = run.registrations[stored.position.attempt]
    observation = stored.item.observation
    return groups_json(observation, registration, Summation(registration).trained(observation))
