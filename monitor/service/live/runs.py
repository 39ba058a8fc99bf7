"""The present of every run, in memory: what metrics, API and pages show.

Written by the store's thread only, after each commit; read by any thread. A run is an immutable snapshot that is
replaced as a whole, so that a reader never sees half of an observation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, reduce
from itertools import count
from typing import Any

from monitor.served_metrics import NAMES
from monitor.service.live.clocks import ClocksApart
from monitor.service.live.pauses import Pauses
from monitor.service.quantities.counts import Totals, add_up, total_weights
from monitor.service.quantities.run_state import RunState, ended
from monitor.service.settings import ServiceSettings
from monitor.service.storage.stored import Position, StoredItem, StoredRun, Thinned
from monitor.wire.monitor_pb2 import Finish, Heartbeat, Item, Observation, Parent, Registration

_MAX_TRAINING_METRICS = 1000
"""Names of training metrics that are shown of a run. A trainer that makes up new ones at each step has ever more."""


_versions = count()
_next_version = partial(next, _versions)


@dataclass(frozen=True, slots=True)
class Metric:
    """The newest value that the trainer logged under one name."""

    position: Position
    value: float


@dataclass(frozen=True)
class LiveObservation:
    """An observation, and the registration of the attempt that made it."""

    position: Position
    registration: Registration
    observation: Observation

    @cached_property
    def totals(self) -> Totals:
        """The observation over all groups. Not before somebody asks: of a run that catches up, most are never shown."""
        return add_up(self.observation, self.registration)


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A run as it stands now. Messages inside are not to be changed.

    Attributes:
        registrations: by attempt.
        registration: of the latest attempt; so are the times, by the service's clock, and the counts of its sender.
        weights: number of weights of the model.
        training_ended: the sender says that its training process is gone.
        latest: the observation with the greatest step that no later attempt superseded.
        training_metrics: name → newest value; where there are too many, those that were logged last.
        observations: number of stored observations that are not superseded.
        pauses: between the observations of the latest attempt, until it ends.
        clocks: of the latest attempt, and of the service.
        thinned, deleted_at: what of it was taken out of the store, see StoredRun.
        version: another one, of this process, wherever an item or an attempt has been added, early or late.
    """

    registrations: Mapping[int, Registration]
    registration: Registration
    weights: int
    registered_at: float
    heard_at: float
    observation_heard_at: float | None
    unsent_items: int
    dropped_items: int
    latest: LiveObservation | None
    training_metrics: Mapping[str, Metric]
    finish: Finish | None
    observations: int
    pauses: Pauses
    thinned: Thinned | None
    deleted_at: float | None
    # Not stored: whoever is still there says it again.
    training_ended: bool = False
    clocks: ClocksApart = field(default_factory=ClocksApart)
    version: int = field(default_factory=_next_version, compare=False)

    @property
    def run_id(self) -> str:
        return self.registration.run_id

    @property
    def parent(self) -> Parent | None:
        """The run and the step that this run branched from, None if it did not."""
        return next((each.parent for each in self.registrations.values() if each.HasField("parent")), None)

    @property
    def step(self) -> int:
        """Step of the latest observation, 0 if none yet."""
        return self.latest.position.step if self.latest else 0

    @property
    def started_at(self) -> float:
        """When the latest attempt started, in seconds since 1970-01-01 UTC; never after the service heard of it."""
        return min(self.registration.started_at, self.registered_at)

    @property
    def observed_at(self) -> float | None:
        """When the latest observation was made, by the service's clock as far as that is known; None before it."""
        if self.latest is None:
            return None
        made = self.latest.observation.observed_at - (self.clocks.ahead or 0.0)
        return made if self.observation_heard_at is None else min(made, self.observation_heard_at)

    @property
    def planned_steps(self) -> int | None:
        """The step at which the latest attempt is to end, None where it did not say."""
        return self.registration.planned_steps or None

    @property
    def totals(self) -> Totals:
        """The latest observation over all groups; before the first, one that measured nothing."""
        return self.latest.totals if self.latest else add_up(Observation(), self.registration)

    def state(self, now: float, settings: ServiceSettings) -> RunState:
        """Return the state at `now`, in seconds since 1970-01-01 UTC."""
        if self.finish is not None:
            return ended(self.finish)
        # What was heard in the future was heard before the clock was set back: nobody knows how long ago.
        if abs(now - self.heard_at) > settings.lost_after_seconds:
            return RunState.LOST
        # A resumed run has to load before it can observe: its clock starts at the registration.
        progress_at = self.registered_at if self.observation_heard_at is None else self.observation_heard_at
        limit = self.pauses.stalled_after(settings.stalled_after_seconds)
        return RunState.STALLED if abs(now - progress_at) > limit else RunState.RUNNING

    def ended_before(self, time: float, now: float, settings: ServiceSettings) -> bool:
        """Return whether the run has ended, in whatever way, or been lost, and was last heard of before `time`."""
        return self.heard_at < time and self.state(now, settings) not in (RunState.RUNNING, RunState.STALLED)

    def supersedes(self, position: Position) -> bool:
        """Return whether a later attempt resumed from before this item."""
        return any(
            attempt > position.attempt and registration.resumed_from_step < position.step
            for attempt, registration in self.registrations.items()
        )

    def with_items(self, items: Iterable[StoredItem]) -> LiveRun:
        """Return the run with more items, which were not stored before, in the order of their numbers."""
        observations, pauses, finish = self.observations, self.pauses, self.finish
        newest, shown = None, self.latest.position if self.latest else None
        logs = []
        for item in items:
            is_latest_attempt = item.position.attempt == self.registration.attempt
            kind = item.item.WhichOneof("kind")
            if kind == "finish" and is_latest_attempt:
                finish, pauses = item.item.finish, Pauses()
            elif self.supersedes(item.position):
                continue
            elif kind == "observation":
                observations += 1
                if shown is None or item.position > shown:
                    newest, shown = item, item.position
                if is_latest_attempt and finish is None:
                    pauses = pauses.after(item.item.observation.observed_at, self.heard_at, self.clocks.least)
            elif kind == "training_log":
                logs.append(item)
        return replace(
            self,
            latest=self.latest if newest is None else _live_observation(newest, self.registrations),
            observations=observations,
            pauses=pauses,
            training_metrics=_newest(self.training_metrics, logs) if logs else self.training_metrics,
            finish=finish,
            version=_next_version(),
        )

    def heard(self, attempt: int, now: float, *, observed: bool, heartbeat: Heartbeat | None) -> LiveRun:
        """Return the run with a sign of life of one attempt; only that of the latest one counts."""
        if attempt != self.registration.attempt:
            return self
        changed: dict[str, Any] = {"heard_at": now}
        if observed:
            changed["observation_heard_at"] = now
        if heartbeat is not None:
            changed["unsent_items"] = heartbeat.unsent_items
            changed["dropped_items"] = heartbeat.dropped_items
            changed["training_ended"] = heartbeat.training_ended
            changed["clocks"] = self.clocks.after(heartbeat.sent_at, now)
        return replace(self, **changed)


class LiveRuns:
    """The runs by id. Methods that change it belong to the store's thread."""

    def __init__(self, stored: Iterable[StoredRun]) -> None:
        self.replace(stored)

    def replace(self, stored: Iterable[StoredRun]) -> None:
        """Know of all runs what the store knows, and nothing else."""
        self._runs = {run.run_id: run for run in map(from_store, stored)}

    def get(self, run_id: str) -> LiveRun | None:
        """Return the run as it stands now, None if there is no such run."""
        return self._runs.get(run_id)

    def all(self) -> list[LiveRun]:
        """Return all runs, the most recently registered first."""
        return sorted(self._runs.values(), key=lambda run: (-run.registered_at, run.run_id))

    def put(self, run: LiveRun) -> None:
        """Replace one run."""
        if run.run_id in self._runs:
            # Whoever goes through the runs meanwhile finds as many.
            self._runs[run.run_id] = run
        else:
            self._runs = {**self._runs, run.run_id: run}

    def forget(self, run_id: str) -> None:
        """Leave out a run that was deleted."""
        self._runs = {other: run for other, run in self._runs.items() if other != run_id}

    def thinned(self, run_id: str, removed: int, thinned: Thinned | None) -> None:
        """Count so many observations less of a run, of which the latest stays."""
        run = self._runs[run_id]
        self.put(replace(run, observations=run.observations - removed, thinned=thinned, version=_next_version()))

    def record(
        self,
        run_id: str,
        attempt: int,
        stored: Sequence[Item],
        *,
        observed: bool,
        heartbeat: Heartbeat | None,
        now: float,
    ) -> None:
        """Bring a run up to date with what was just committed: the items that are new, and a sign of life."""
        run = self._runs[run_id].heard(attempt, now, observed=observed, heartbeat=heartbeat)
        if stored:
            run = run.with_items([StoredItem(position_of(item, attempt), item) for item in stored])
        self.put(run)


def position_of(item: Item, attempt: int) -> Position:
    """Return where the item stands in the history of its run."""
    kind = item.WhichOneof("kind")
    return Position(getattr(item, kind).step if kind else 0, attempt, item.sequence)


def from_store(stored: StoredRun) -> LiveRun:
    """Return the run as it stands according to the store."""
    registration = stored.registrations[max(stored.registrations)]
    return LiveRun(
        registrations=stored.registrations,
        registration=registration,
        weights=total_weights(registration),
        registered_at=stored.registered_at,
        heard_at=stored.heard_at,
        observation_heard_at=stored.observation_heard_at,
        unsent_items=stored.unsent_items,
        dropped_items=stored.dropped_items,
        latest=_live_observation(stored.observation, stored.registrations) if stored.observation else None,
        training_metrics=_newest({}, stored.logs),
        finish=stored.finish,
        observations=stored.observations,
        pauses=reduce(Pauses.after, stored.observed_at, Pauses()),
        thinned=stored.thinned,
        deleted_at=stored.deleted_at,
    )


def _live_observation(item: StoredItem, registrations: Mapping[int, Registration]) -> LiveObservation:
    # Attempts of a run may differ in references and tolerances.
    registration = registrations[item.position.attempt]
    return LiveObservation(item.position, registration, item.item.observation)


def _newest(known: Mapping[str, Metric], logs: Iterable[StoredItem]) -> dict[str, Metric]:
    """Trainers log different names at different times (training, evaluation): each keeps its newest value."""
    newest = dict(known)
    for log in logs:
        for name, value in log.item.training_log.metrics.items():
            if name not in newest or log.position >= newest[name].position:
                newest[name] = Metric(log.position, value)
    if len(newest) <= _MAX_TRAINING_METRICS:
        return newest
    # What an engine serves is seldom told.
    by_age = sorted(newest.items(), key=lambda each: (each[0] in NAMES, each[1].position, each[0]))
    return dict(by_age[-_MAX_TRAINING_METRICS:])
