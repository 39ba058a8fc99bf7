"""Run: one run, from "is it still sparse" to what it cost."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import stat, timeseries

from monitor.grafana.addresses import RUN_UID
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards import bands, links, states, variables
from monitor.grafana.dashboards.board import Row, board
from monitor.grafana.dashboards.panels import (
    NOT_REPORTED,
    NOTHING_TO_JUDGE,
    TEXT,
    in_column,
    in_series,
    number,
    rows,
    said_by_runs,
)
from monitor.grafana.dashboards.query import ONE_RUN, Query
from monitor.grafana.dashboards.run_cost import cost_panels, training_panels
from monitor.grafana.dashboards.run_overlap import overlap_panels
from monitor.grafana.dashboards.run_sync import norm_panels, sync_panels
from monitor.grafana.dashboards.run_updates import moving_panels, sparsity_panels, where_panels
from monitor.grafana.promql.metric import metric, told_apart
from monitor.grafana.promql.ratios import (
    CUMULATIVE_SPARSITY,
    HIDDEN,
    HOST_SHARE,
    STEP_SPARSITY,
    TRAINED_SHARE,
    WHOLE_MODEL_CUMULATIVE_SPARSITY,
    Level,
)

_NAME_WIDTH = 280


def run(settings: AlertSettings) -> dict[str, Any]:
    """Return the dashboard of one run."""
    return board(
        RUN_UID,
        "sparsity-monitor / Run",
        "One run: whether its updates are sparse, where they land, whether they land where the reference did, what "
        "the trainer logged, and what monitoring costs.",
        variables=variables.of_run(),
        rows=[
            Row("Now", [*_by_step([*_now(settings), *_besides(settings)]), _measured_as()]),
            Row("Is it still sparse?", _by_step(sparsity_panels())),
            Row("Where do updates land?", _by_step(where_panels())),
            Row("What moves?", _by_step([*moving_panels(), *norm_panels()])),
            Row("What does a weight sync change?", _by_step(sync_panels())),
            Row("Do they land where the reference did?", _by_step(overlap_panels(settings))),
            Row("What the trainer logged", _by_step(training_panels())),
            Row("What monitoring costs", _by_step(cost_panels(settings))),
        ],
        alerts_of=ONE_RUN,
        links=[links.run_by_step()],
    )


def _by_step(panels: list[Any]) -> list[Any]:
    """Let each number and line lead to where the service shows the run step by step."""
    leading = (stat.Panel, timeseries.Panel)
    return [in_series(each, links=[links.by_step()]) if isinstance(each, leading) else each for each in panels]


def _now(settings: AlertSettings) -> list[Any]:
    return [
        _state(),
        number(
            "Step",
            "Optimizer step of the latest observation. Metric: sparsity_monitor_run_step.",
            "none",
            Query(metric("run_step", ONE_RUN), now=True),
            width=3,
        ),
        number(
            "Planned steps",
            "Optimizer step at which the training is to end. Metric: sparsity_monitor_run_planned_steps.",
            "none",
            Query(metric("run_planned_steps", ONE_RUN), now=True),
        ),
        number(
            "Cumulative sparsity",
            "Share of the trained visible weights that equal the base. Red: below what the critical alert allows. "
            "Orange: below what the warning allows. Metrics: sparsity_monitor_run_changed_weights, "
            "sparsity_monitor_run_weights, sparsity_monitor_run_frozen_weights.",
            "percentunit",
            Query(CUMULATIVE_SPARSITY.at(Level.RUN, ONE_RUN), now=True),
            bands.cumulative_now(settings),
            width=5,
        ),
        number(
            "Step sparsity",
            "Share of the trained visible weights that are the same as at the previous observation. Orange: denser "
            "than published RL within 32 steps. Metrics: sparsity_monitor_run_step_changed_weights, "
            "sparsity_monitor_run_weights, sparsity_monitor_run_frozen_weights.",
            "percentunit",
            Query(STEP_SPARSITY.at(Level.RUN, ONE_RUN), now=True),
            bands.step_now(settings),
        ),
        number(
            "Last observation",
            "How long ago the latest observation was made. Metric: "
            "sparsity_monitor_run_last_observation_timestamp_seconds.",
            "s",
            Query(f"time() - {metric('run_last_observation_timestamp_seconds', ONE_RUN)}", now=True),
        ),
    ]


def _besides(settings: AlertSettings) -> list[Any]:
    return [
        number(
            "Whole-model cumulative sparsity",
            "Share of all visible weights that equal the base: frozen ones, which always do, are included; unmeasured "
            "ones are not. Metrics: sparsity_monitor_run_changed_weights, sparsity_monitor_run_weights, "
            "sparsity_monitor_run_unmeasured_weights.",
            "percentunit",
            Query(WHOLE_MODEL_CUMULATIVE_SPARSITY.at(Level.RUN, ONE_RUN), now=True),
            width=6,
        ),
        number(
            "Trained weights",
            "Share of all weights that train, or did at some time in this run; with adapters, those of the matrices "
            "that they change. All ratios are shares of these, unless they say otherwise. Metrics: "
            "sparsity_monitor_run_frozen_weights, sparsity_monitor_run_weights.",
            "percentunit",
            Query(TRAINED_SHARE.at(Level.RUN, ONE_RUN), now=True),
        ),
        number(
            "Hidden",
            "Share of the trained weights whose stored value moved while the visible one did not. Metrics: "
            "sparsity_monitor_run_hidden_weights, sparsity_monitor_run_weights, sparsity_monitor_run_frozen_weights.",
            "percentunit",
            Query(HIDDEN.at(Level.RUN, ONE_RUN), now=True),
        ),
        number(
            "Non-finite weights",
            "Visible weights that are NaN or infinite. One is too many. Metric: "
            "sparsity_monitor_run_non_finite_weights.",
            "none",
            Query(metric("run_non_finite_weights", ONE_RUN), now=True),
            [(None, "green"), (1, "red")],
            width=5,
        ),
        number(
            "Cost of monitoring",
            "Seconds of the training thread per step, times steps per second. Orange: above what the alert allows. "
            "Metrics: sparsity_monitor_run_host_seconds, sparsity_monitor_run_stride_steps, "
            "sparsity_monitor_run_step.",
            "percentunit",
            Query(HOST_SHARE.at(Level.RUN, ONE_RUN), now=True),
            [(None, "green"), (settings.host_share, "orange")],
            width=5,
        ),
    ]


def _state() -> Any:
    panel = number(
        "State",
        "Running, stalled (alive, no observations), lost (silent), failed, finished, stopped (early, by itself) or "
        "preempted (from outside). Metric: sparsity_monitor_run_state.",
        "none",
        Query(states.codes(ONE_RUN), now=True),
        states.STEPS,
    )
    return panel.mappings([states.names(), NOTHING_TO_JUDGE])


def _measured_as() -> Any:
    panel = rows(
        "What is measured",
        "What counts as changed, in which dtype, against which weights: no number on this dashboard means anything "
        "without it. The user's labels follow. Metric: sparsity_monitor_run_info.",
        TEXT,
        # Of the ids of two runs, the beginnings may be all that there is room for.
        Query(told_apart(metric("run_info", ONE_RUN)), table=True),
        height=4,
        no_data=NOT_REPORTED,
    )
    return said_by_runs(in_column(panel, "name", custom_width=_NAME_WIDTH))
