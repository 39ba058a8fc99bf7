"""A run from a service: its curves through /api/v1, in full resolution, however many steps it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from monitor.notebook.described import Columns, Described
from monitor.notebook.interface import Interface, Json, what_went
from monitor.notebook.totals import GROUP_COLUMNS, RATIOS, REFERENCE_COLUMNS
from monitor.notebook.whole import GROUP_POINTS, POINTS, whole
from monitor.service.quantities.families import COUNTS
from monitor.service.quantities.fields import AT_TOLERANCE, FIELDS, LOGGED, OVERLAP_LIFT, OVERLAP_O1, OVERLAP_O2

# So that an address does not become too long.
_FIELDS_AT_A_TIME = 30

# What the interface calls as it is called here.
_SAME = (
    *("run_id", "name", "model", "base", "base_fingerprint", "labels", "criterion", "visible_dtype"),
    *("stored_dtypes", "library_versions", "weights", "state", "reason"),
)

_Point = tuple[float, float | None]
_Curve = dict[int, _Point]


class ServiceSource:
    """The run in a service.

    Args:
        url: where browsers find the service.
        wanted: id or name of the run; None where the service has but one.

    Raises:
        ReportingError: the service cannot be reached, or does not answer.
        ConfigurationError: it is not clear which run is meant.
    """

    def __init__(self, url: str, wanted: str | None) -> None:
        self._interface = Interface(url)
        self._run = self._interface.run(wanted)
        self._run_id = str(self._run["run_id"])
        self.described = self._described()

    def _described(self) -> Described:
        run = self._run
        dropped, unsent = run["dropped_items"], run["unsent_items"]
        remarks = [f"{dropped:,} observations and logs of this run never reached the service."] * bool(dropped)
        remarks += [f"{unsent:,} observations and logs of this run are not delivered yet."] * bool(unsent)
        remarks += what_went(run)
        return Described(
            **{name: run[name] for name in _SAME},
            references={each["name"]: each["weights"] for each in run["references"]},
            tolerances=[each["tolerance"] for each in run["at_tolerances"]],
            attempts=run["attempt"],
            remarks=remarks,
        )

    def observations(self) -> Columns:
        """See Source."""
        names = [*FIELDS, *(f"{AT_TOLERANCE}{tolerance!r}" for tolerance in self.described.tolerances)]
        curves = self._curves(names)
        # Every observation has a stride, whatever it measured.
        every = curves["stride"]
        steps = sorted(every)
        columns: dict[str, Sequence[object]] = {"step": steps, "time": [every[step][0] for step in steps]}
        columns["attempt"] = self._attempts(steps)
        return columns | {name: _values(curves[name], steps) for name in names}

    def _attempts(self, steps: list[int]) -> list[int]:
        """Return the attempt of each observation. They rise with the steps, so that few have to be asked for."""
        found = [0] * len(steps)

        def fill(first: int, last: int, at_first: int, at_last: int) -> None:
            if at_first == at_last or last - first < 2:
                found[first : last + 1] = [at_first] * (last - first) + [at_last]
                return
            middle = (first + last) // 2
            between = self._attempt_at(steps[middle])
            fill(first, middle, at_first, between)
            fill(middle, last, between, at_last)

        if steps:
            fill(0, len(steps) - 1, self._attempt_at(steps[0]), self._attempt_at(steps[-1]))
        return found

    def _attempt_at(self, step: int) -> int:
        return int(self._interface.get("runs", self._run_id, "groups", parameters={"step": step})["attempt"])

    def logs(self) -> Columns:
        """See Source."""
        names = [each["name"] for each in self._run["fields"] if each["name"].startswith(LOGGED)]
        rows = [
            (step, time, name.removeprefix(LOGGED), value)
            for name, curve in self._curves(names).items()
            for step, (time, value) in curve.items()
        ]
        rows.sort(key=lambda row: (row[0], row[2]))
        return _transposed(rows, ("step", "time", "name", "value"))

    def references(self) -> Columns:
        """See Source."""
        rows = []
        for name, weights in self.described.references.items():
            o1, o2, lift = OVERLAP_O1 + name, OVERLAP_O2 + name, OVERLAP_LIFT + name
            curves = self._curves([o1, o2, lift])
            for step, (_, share) in curves[o2].items():
                # Exact: a share in 64 bits tells apart all counts of up to 2^51 weights.
                intersection = None if share is None else round(share * weights)
                values = [curves[each].get(step, (0.0, None))[1] for each in (o1, o2, lift)]
                rows.append((step, name, weights, intersection, *values))
        order = list(self.described.references)
        rows.sort(key=lambda row: (row[0], order.index(str(row[1]))))
        return _transposed(rows, REFERENCE_COLUMNS)

    def last_groups(self) -> Columns:
        """See Source."""
        if not self._run["observations"]:
            return {name: [] for name in GROUP_COLUMNS}
        answer = self._interface.get("runs", self._run_id, "groups")
        rows = [
            (
                *(answer["step"], group["label"], group["module"], group["weights"]),
                *(group[name] for name in RATIOS),
                *(group["counts"][name] for name in COUNTS),
            )
            for group in answer["groups"]
        ]
        return _transposed(rows, GROUP_COLUMNS)

    def groups(self) -> Columns:
        """See Source."""
        weights = {(group["label"], group["module"]): group["weights"] for group in self._run["groups"]}
        of = {name: self._group_curves(name) for name in (*RATIOS, *COUNTS)}
        keys = {(step, group): None for cells in of.values() for step, group in cells}
        place = {group: index for index, group in enumerate(weights)}
        rows = [
            (step, *group, weights[group], *(cells.get((step, group)) for cells in of.values()))
            for step, group in sorted(keys, key=lambda key: (key[0], place[key[1]]))
        ]
        return _transposed(rows, GROUP_COLUMNS)

    def _group_curves(self, field: str) -> dict[tuple[int, tuple[str, str]], float | None]:
        cells: dict[tuple[int, tuple[str, str]], float | None] = {}
        for answer in self._whole("groups", "history", field=field, points=GROUP_POINTS):
            for group in answer["groups"]:
                label = (group["label"], group["module"])
                cells |= {(step, label): value for step, value in zip(answer["step"], group["values"], strict=True)}
        return cells

    def _curves(self, names: Sequence[str]) -> dict[str, _Curve]:
        """Return step → (time, value) of each curve, every point that there is."""
        curves: dict[str, _Curve] = {name: {} for name in names}
        for first in range(0, len(names), _FIELDS_AT_A_TIME):
            some = list(names[first : first + _FIELDS_AT_A_TIME])
            for answer in self._whole("history", fields=some, points=POINTS):
                for name, curve in answer["curves"].items():
                    points = zip(curve["step"], curve["time"], curve["last"], strict=True)
                    curves[name] |= {step: (time, value) for step, time, value in points}
        return curves

    def _whole(self, *path: str, **wanted: object) -> Iterator[Json]:
        return whole(self._interface, ("runs", self._run_id, *path), wanted)


def _values(curve: _Curve, steps: Sequence[int]) -> list[float | None]:
    return [curve[step][1] if step in curve else None for step in steps]


def _transposed(rows: Sequence[Sequence[object]], names: Sequence[str]) -> Columns:
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return dict(zip(names, columns, strict=True))
