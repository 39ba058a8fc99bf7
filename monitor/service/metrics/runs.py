"""Live state → metrics. Reads immutable snapshots, so that a scrape may run in a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client.core import Metric

from monitor.served_metrics import NAMES
from monitor.service.live.runs import LiveRun, LiveRuns
from monitor.service.metrics.series import GroupArray, roll_up
from monitor.service.quantities.families import FAMILIES, PREFIX
from monitor.service.quantities.labels import criterion_label, group_labels, metric_labels
from monitor.service.quantities.run_state import RunState
from monitor.service.quantities.transfer import Transfer
from monitor.service.settings import ServiceSettings
from monitor.version import __version__
from monitor.wire import PROTOCOL_VERSION

Labels = dict[str, str]


class Scraped(NamedTuple):
    """What a scrape shows of the runs.

    Attributes:
        metrics: all but those of groups.
        detailed: the runs whose groups are shown, too.
    """

    metrics: list[Metric]
    detailed: list[LiveRun]


class LiveMetrics:
    """Everything about runs. What an observation did not measure has no series, rather than zeros.

    Args:
        service_url: where browsers find the service.
    """

    def __init__(self, live: LiveRuns, settings: ServiceSettings, service_url: str) -> None:
        self._live = live
        self._settings = settings
        self._service_url = service_url

    def scraped(self, size: Callable[[LiveRun], int]) -> Scraped:
        """Return what is shown now.

        Args:
            size: tells how many series the groups of a run have. They are shown as far as the budget goes.
        """
        now = time.time()
        families = Families()
        runs = self._live.all()
        shown = self._not_ended(runs, now, self._settings.finished_shown_seconds)
        for run in shown:
            _add_run(families, run, run.state(now, self._settings))
        with_groups = self._not_ended(shown, now, self._settings.finished_grace_seconds)
        for run in with_groups:
            _add_training_metrics(families, run)
        detailed = self._within_budget(families, with_groups, size)
        families.add("runs", {}, len(runs))
        families.add("service_info", {"service_url": self._service_url}, 1)
        self._add_service(families, stands_by=False)
        return Scraped(families.with_series(), detailed)

    def scraped_without_runs(self) -> Scraped:
        """Return what is shown where another service has the store: nothing of the runs, lest they be counted twice."""
        families = Families()
        self._add_service(families, stands_by=True)
        return Scraped(families.with_series(), [])

    def _add_service(self, families: Families, *, stands_by: bool) -> None:
        families.add("series_budget", {}, self._settings.series_budget)
        families.add("standing_by", {}, int(stands_by))
        build = {"version": __version__, "protocol_version": str(PROTOCOL_VERSION)}
        families.add("build_info", build, 1)

    def _not_ended(self, runs: list[LiveRun], now: float, seconds: float) -> list[LiveRun]:
        """Leave out the runs that ended longer ago than this."""
        return [run for run in runs if not run.ended_before(now - seconds, now, self._settings)]

    def _within_budget(self, families: Families, runs: list[LiveRun], size: Callable[[LiveRun], int]) -> list[LiveRun]:
        """Return the runs for whose groups there is room, and say so of the others."""
        sizes = {run.run_id: size(run) for run in runs}
        rolled_up = roll_up(sizes, self._settings.series_budget - families.series)
        for run in runs:
            families.add("run_rolled_up", {"run": run.run_id}, run.run_id in rolled_up)
        families.add("rolled_up_runs", {}, len(rolled_up))
        detailed = [run for run in runs if run.run_id not in rolled_up]
        families.add("series", {}, families.series + sum(sizes[run.run_id] for run in detailed))
        return detailed


class Families:
    """The metrics of one scrape, in the order of the table.

    Attributes:
        series: how many were added.
    """

    def __init__(self) -> None:
        self.series = 0
        self._metrics = {
            family.name: Metric(family.name.removesuffix("_info"), family.help, family.kind) for family in FAMILIES
        }

    def add(self, name: str, labels: Labels, value: float | None) -> None:
        """Add one series, unless its value was not measured."""
        if value is not None:
            self._metrics[PREFIX + name].add_sample(PREFIX + name, labels, value)
            self.series += 1

    def with_series(self) -> list[Metric]:
        """Return the metrics that have series."""
        return [metric for metric in self._metrics.values() if metric.samples]


def group_metrics(run: LiveRun, arrays: Iterable[GroupArray]) -> list[Metric]:
    """Return what is known per group of a run as metrics."""
    families = Families()
    groups = group_labels(run.registration.groups)
    # Shared by the families, since building them is most of the work.
    labels = [{"run": run.run_id, "layer": layer, "module": module} for layer, module in groups]
    for array in arrays:
        name = array.reference
        with_reference = labels if name is None else [{**each, "reference": name} for each in labels]
        for each, value in zip(with_reference, array.values, strict=True):
            families.add(array.family, each, value)
    return families.with_series()


def _add_run(families: Families, run: LiveRun, state: RunState) -> None:
    labels = {"run": run.run_id}
    registration = run.registration
    families.add("run_info", _info(run), 1)
    if parent := run.parent:
        families.add("run_parent_info", {**labels, "parent": parent.run_id, "parent_step": str(parent.step)}, 1)
    families.add("run_weights", labels, run.weights)
    families.add("run_frozen_weights", labels, run.weights - run.totals.trained_weights)
    families.add("run_attempt", labels, registration.attempt)
    families.add("run_observations", labels, run.observations)
    if thinned := run.thinned:
        families.add("run_thinned_until_step", labels, thinned.until_step)
        families.add("run_thinned_every", labels, thinned.every)
        families.add("run_thinned_observations", labels, thinned.removed)
    families.add("run_dropped_items", labels, run.dropped_items)
    families.add("run_unsent_items", labels, run.unsent_items)
    families.add("run_started_timestamp_seconds", labels, run.started_at)
    families.add("run_last_heard_timestamp_seconds", labels, run.heard_at)
    families.add("run_clock_ahead_seconds", labels, run.clocks.ahead or 0)
    for other in RunState:
        families.add("run_state", {**labels, "state": other.value}, other is state)
    families.add("run_planned_steps", labels, run.planned_steps)
    for name in NAMES:
        if name in run.training_metrics:
            families.add(f"run_{name}", labels, run.training_metrics[name].value)
    _add_observation(families, labels, run)


def _add_training_metrics(families: Families, run: LiveRun) -> None:
    for name, metric in run.training_metrics.items():
        families.add("run_training_metric", {"run": run.run_id, "metric": name}, metric.value)


def _info(run: LiveRun) -> Labels:
    registration = run.registration
    return {
        "run": run.run_id,
        "name": registration.name,
        "model": registration.model,
        "base": registration.base.source,
        "base_fingerprint": registration.base.fingerprint,
        "base_mode": registration.base.mode,
        "criterion": criterion_label(registration.criterion),
        "visible_dtype": registration.visible_dtype,
        "stored_dtypes": ",".join(registration.stored_dtypes),
        **metric_labels(registration.labels),
    }


def _add_observation(families: Families, labels: Labels, run: LiveRun) -> None:
    if run.latest is None:
        return
    observation, totals = run.latest.observation, run.latest.totals
    families.add("run_step", labels, observation.step)
    families.add("run_stride_steps", labels, observation.stride)
    families.add("run_host_seconds", labels, observation.host_seconds)
    families.add("run_device_seconds", labels, observation.device_seconds)
    families.add("run_monitor_bytes", labels, observation.monitor_bytes)
    families.add("run_last_observation_timestamp_seconds", labels, run.observed_at)
    families.add("run_update_norm", labels, totals.update_norm)
    families.add("run_base_norm", labels, totals.base_norm)
    families.add("run_update_max_abs", labels, totals.update_max_abs)
    _add_transfer(families, labels, totals.transfer)
    for name, count in totals.counts.items():
        families.add(f"run_{name}_weights", labels, count)
    for tolerance, at_tolerance in zip(run.latest.registration.tolerances, totals.changed_at, strict=True):
        families.add("run_changed_at_tolerance_weights", {**labels, "tolerance": str(tolerance)}, at_tolerance)
    for reference, overlap in zip(run.latest.registration.references, totals.references, strict=True):
        with_reference = {**labels, "reference": reference.name}
        families.add("run_reference_weights", with_reference, overlap.weights)
        families.add("run_reference_intersection_weights", with_reference, overlap.intersection)
        families.add("run_reference_expected_intersection_weights", with_reference, overlap.expected_intersection)


def _add_transfer(families: Families, labels: Labels, transfer: Transfer | None) -> None:
    if transfer is None:
        return
    labels = {**labels, "between": transfer.between.value}
    families.add("run_sync_changed_weights", labels, transfer.changed)
    families.add("run_sync_steps", labels, transfer.steps)
    families.add("run_sync_sparse_bytes", labels, transfer.sparse_bytes)
    families.add("run_sync_dense_bytes", labels, transfer.dense_bytes)
