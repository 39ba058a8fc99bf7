"""A run from its output directory: what its spool holds still, read while it may go on, without being in its way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from monitor.notebook.described import Columns, Described, chosen
from monitor.notebook.totals import (
    GROUP_COLUMNS,
    OBSERVATION_COLUMNS,
    REFERENCE_COLUMNS,
    Row,
    group_rows,
    observation_row,
    reference_rows,
)
from monitor.report.spool.attempt import AttemptKey, SpooledAttempt
from monitor.report.spool.items import Spool
from monitor.report.spool.places import MASK_FILE, find_spool, linked_spools
from monitor.service.quantities.counts import Summation, total_weights
from monitor.service.quantities.labels import criterion_label
from monitor.service.quantities.run_state import ended
from monitor.wire.monitor_pb2 import Finish, Item, Observation, Registration, TrainingLog

_ROWS_AT_A_TIME = 256


@dataclass
class _Attempt:
    """What is here of one attempt, from as many spools as it was kept in."""

    summation: Summation
    appended: int = 0
    dropped: int = 0
    finished: bool = False
    items: dict[int, Item] = field(default_factory=dict)

    @property
    def registration(self) -> Registration:
        return self.summation.registration

    def add(self, known: SpooledAttempt, items: Iterable[tuple[int, bytes]]) -> None:
        self.dropped = max(self.dropped, known.dropped)
        self.finished = self.finished or known.finished
        self.items |= {sequence: Item.FromString(item) for sequence, item in items}
        # The run may have gone on since the attempt was looked at.
        self.appended = max(self.appended, known.last_sequence, *self.items, 0)


class DirectorySource:
    """The run in an output directory.

    Args:
        directory: the run's output directory, or the spool's own.
        wanted: id or name of the run; None where the directory has but one.

    Raises:
        SpoolError: there is no spool, or it cannot be read.
        ConfigurationError: it is not clear which run is meant.
    """

    def __init__(self, directory: Path, wanted: str | None) -> None:
        spools = find_spool(directory)
        self._attempts = _read(spools, wanted, f"{str(directory)!r}")
        self._observations: list[tuple[int, Observation]] = _last_of_each_step(
            (attempt, item.observation) for attempt, item in self._kept() if item.HasField("observation")
        )
        described = _described(self._attempts)
        mask = spools / MASK_FILE
        self.described = replace(
            described,
            remarks=_remarks(described.run_id, self._attempts.values()),
            mask_file=mask if mask.is_file() else None,
        )

    def _kept(self) -> Iterator[tuple[int, Item]]:
        """Yield attempt and item, without what a later attempt superseded."""
        for attempt, known in self._attempts.items():
            later = [each.registration.resumed_from_step for a, each in self._attempts.items() if a > attempt]
            bound = min(later, default=None)
            for _, item in sorted(known.items.items()):
                if bound is None or _step(item) <= bound:
                    yield attempt, item

    def observations(self) -> Columns:
        """See Source."""
        rows: list[Row] = [
            {"step": observation.step, "time": observation.observed_at, "attempt": attempt}
            | observation_row(observation, self._attempts[attempt].summation)
            for attempt, observation in self._observations
        ]
        return _columns(rows, OBSERVATION_COLUMNS)

    def groups(self) -> Columns:
        """See Source."""
        return self._groups(self._observations)

    def last_groups(self) -> Columns:
        """See Source."""
        return self._groups(self._observations[-1:])

    def _groups(self, observations: Iterable[tuple[int, Observation]]) -> Columns:
        rows = [
            row
            for attempt, observation in observations
            for row in group_rows(observation, self._attempts[attempt].summation)
        ]
        return _columns(rows, GROUP_COLUMNS)

    def logs(self) -> Columns:
        """See Source."""
        values: dict[tuple[int, str], Row] = {}
        for _, item in self._kept():
            if item.HasField("training_log"):
                log: TrainingLog = item.training_log
                for name, value in log.metrics.items():
                    row: Row = {"step": log.step, "time": log.logged_at, "name": name, "value": value}
                    values[log.step, name] = row
        return _columns([values[key] for key in sorted(values)], ("step", "time", "name", "value"))

    def references(self) -> Columns:
        """See Source."""
        rows = [
            row
            for attempt, observation in self._observations
            for row in reference_rows(observation, self._attempts[attempt].summation)
        ]
        return _columns(rows, REFERENCE_COLUMNS)


def _read(directory: Path, wanted: str | None, where: str) -> dict[int, _Attempt]:
    """Return the attempts of one run, the first one first."""
    places = (directory, *linked_spools(directory))
    run = chosen(_names(places), wanted, where)
    attempts: dict[int, _Attempt] = {}
    for place in places:
        with closing(Spool(place, read_only=True)) as spool:
            for known in spool.attempts():
                if known.key.run_id == run:
                    found = _Attempt(Summation(Registration.FromString(known.registration)))
                    attempts.setdefault(known.key.attempt, found).add(known, _items(spool, known.key))
    return dict(sorted(attempts.items()))


def _names(places: Iterable[Path]) -> dict[str, str]:
    names = {}
    for place in places:
        with closing(Spool(place, read_only=True)) as spool:
            for known in spool.attempts():
                names[known.key.run_id] = Registration.FromString(known.registration).name
    return names


def _items(spool: Spool, key: AttemptKey) -> Iterator[tuple[int, bytes]]:
    # Some at a time: while a query reads, the run that goes on cannot commit.
    after = 0
    while rows := spool.unsent(key, after, _ROWS_AT_A_TIME):
        yield from rows
        after = rows[-1][0]


def _step(item: Item) -> int:
    kind = item.WhichOneof("kind")
    return int(getattr(item, kind).step) if kind else 0


def _last_of_each_step(observations: Iterable[tuple[int, Observation]]) -> list[tuple[int, Observation]]:
    by_step = {observation.step: (attempt, observation) for attempt, observation in observations}
    return [by_step[step] for step in sorted(by_step)]


def _described(attempts: dict[int, _Attempt]) -> Described:
    latest = attempts[max(attempts)]
    registration = latest.registration
    state, reason = _ending(latest)
    return Described(
        run_id=registration.run_id,
        name=registration.name,
        model=registration.model,
        base=registration.base.source,
        base_fingerprint=registration.base.fingerprint,
        labels=dict(registration.labels),
        criterion=criterion_label(registration.criterion),
        visible_dtype=registration.visible_dtype,
        stored_dtypes=list(registration.stored_dtypes),
        library_versions=dict(registration.library_versions),
        weights=total_weights(registration),
        references={each.name: sum(each.weights) for each in registration.references},
        tolerances=list(registration.tolerances),
        attempts=max(attempts),
        state=state,
        reason=reason,
    )


def _ending(attempt: _Attempt) -> tuple[str, str]:
    for _, item in sorted(attempt.items.items(), reverse=True):
        if item.HasField("finish"):
            finish: Finish = item.finish
            return str(ended(finish)), finish.reason
    return ("ended", "how is known to the service") if attempt.finished else ("not ended", "")


def _remarks(run_id: str, attempts: Iterable[_Attempt]) -> list[str]:
    """Say what is not here any more."""
    attempts = list(attempts)
    appended, dropped = (sum(getattr(each, name) for each in attempts) for name in ("appended", "dropped"))
    # Those refused are among the dropped ones.
    delivered = sum(max(0, each.appended - each.dropped - len(each.items)) for each in attempts)
    remarks = []
    if delivered:
        remarks.append(
            f"{delivered:,} of the {appended:,} observations and logs of this run are not in its directory any more, "
            "because the service has them: a spool holds what is not delivered. Load the run from the service for all "
            f'of them, such as load_run("http://127.0.0.1:8765#{run_id}").'
        )
    if dropped:
        remarks.append(
            f"{dropped:,} of the {appended:,} observations and logs of this run are lost or set aside: the spool was "
            "full or damaged, the disk too slow or away, or the service refused them. The run's own log says which."
        )
    return remarks


def _columns(rows: list[Row], names: Iterable[str]) -> Columns:
    columns: dict[str, list[object]] = {name: [] for name in names}
    # Tolerances are the run's own, and attempts may differ in them.
    for row in rows:
        for name in row:
            columns.setdefault(name, [])
    for name, values in columns.items():
        values += [row.get(name) for row in rows]
    return columns
