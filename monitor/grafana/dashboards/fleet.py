"""Fleet: all runs, the one in most trouble on top."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders.common import TableSortByFieldState
from grafana_foundation_sdk.models.dashboard import DataTransformerConfig

from monitor.grafana.addresses import FLEET_UID
from monitor.grafana.alerts.catalogue import SERVICE
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards import bands, links, states, variables
from monitor.grafana.dashboards.board import Row, board
from monitor.grafana.dashboards.panels import (
    NAME_WIDTH,
    TEXT,
    banded,
    coloured_cells,
    hidden_columns,
    in_column,
    in_series,
    lines,
    number,
    rows,
    states_over_time,
)
from monitor.grafana.dashboards.query import JOB, Query
from monitor.grafana.promql.metric import (
    IDENTITY,
    Matchers,
    braces,
    known_runs,
    metric,
    shown,
    shown_in_rows,
    told_apart,
)
from monitor.grafana.promql.ratios import CUMULATIVE_SPARSITY, STEP_SPARSITY, Level

_NO_RUNS = "No run has reported to this service yet."
_LABELS = ("run", "name", "model", "criterion", "visible_dtype", "service_url")
_ROWS = 30
# What is left is the model's, whose names are long.
_WIDTHS = {"Trouble": 90, "name": NAME_WIDTH, "State": 110, "Step": 80, "of": 80, "criterion": 90, "visible_dtype": 120}
_NO_DATA = "Nothing is scraped: is the service in Prometheus' scrape configuration, and the right data source chosen?"


def fleet(settings: AlertSettings) -> dict[str, Any]:
    """Return the dashboard of all runs."""
    return board(
        FLEET_UID,
        "sparsity-monitor / Fleet",
        "All runs: their state, how sparse their updates are now, and which ones need attention.",
        variables=variables.of_fleet(),
        rows=[
            Row("Now", [*_counts(), _firing(), _runs(settings)]),
            Row("Over time", [_cumulative(), _step(), _states()]),
        ],
        alerts_of=JOB,
    )


def _counts() -> list[Any]:
    return [
        number(
            state.capitalize(),
            f"Runs in state {state}. Metric: sparsity_monitor_run_state.",
            "none",
            Query(f"sum({states.in_state(state, JOB)})", now=True),
            [(None, "text"), (1, colour)],
            width=3,
            no_data=_NO_DATA,
        )
        for state, colour in states.COLOURS.items()
    ]


def _equals(value: str) -> str:
    return f'="{value}"'


def _firing() -> Any:
    recorded = CUMULATIVE_SPARSITY.record(Level.RUN)
    return number(
        "Alerts",
        "Alerts about runs and the service that are firing now, as Prometheus evaluates them; Grafana lists those "
        f"that it manages under Alerting. Metrics: ALERTS, {recorded}.",
        "none",
        # Zero only where Prometheus has our rules: elsewhere it would say that all is well, and nobody looks.
        Query(f"count({_alerts({})}) or 0 * count({recorded}{braces(JOB)})", now=True),
        [(None, "green"), (1, "red")],
        width=3,
        no_data="Prometheus has not evaluated our rules: no run has reported yet, or Grafana manages the alerts.",
    )


def _alerts(matchers: Matchers) -> str:
    return "ALERTS" + braces({**JOB, "alertstate": '="firing"', "service": _equals(SERVICE), **matchers})


def trouble(settings: AlertSettings) -> str:
    """How much a run needs a look: alerts by their severity, and a state or a density that asks for a person.

    Density counts by itself, since Prometheus knows nothing of alerts that Grafana manages.
    """
    known = f"0 * max by (run) ({metric('run_info', JOB)})"

    def firing(severity: str, weight: int) -> str:
        alerts = _alerts({"severity": _equals(severity), "run": '!=""'})
        return f"({weight} * count by (run) ({alerts}) or {known})"

    weights = {"failed": 5, "lost": 5, "stalled": 2, "preempted": 2}
    by_state = " or ".join(f"{weight} * {states.in_state(state, JOB)}" for state, weight in weights.items())
    sparsity = CUMULATIVE_SPARSITY.at(Level.RUN, JOB)
    training = metric("run_state", {**JOB, "state": '=~"running|stalled"'})
    dense = (
        f"(9 * ({sparsity} < bool {settings.cumulative_sparsity_critical:g}) + ({sparsity} < bool "
        f"{settings.cumulative_sparsity_warning:g}) and on ({IDENTITY}) {training} == 1)"
    )
    return f"{firing('critical', 10)} + {firing('warning', 1)} + max by (run) ({by_state} or {dense})"


def _runs(settings: AlertSettings) -> Any:
    about = told_apart(known_runs(JOB))
    columns = {
        "Trouble": trouble(settings),
        "State": f"max by (run) ({states.codes(JOB)})",
        "Cumulative sparsity": f"max by (run) ({CUMULATIVE_SPARSITY.at(Level.RUN, JOB)})",
        "Step sparsity": f"max by (run) ({STEP_SPARSITY.at(Level.RUN, JOB)})",
        "Step": f"max by (run) ({metric('run_step', JOB)})",
        "of": f"max by (run) ({metric('run_planned_steps', JOB)})",
        "Last observation": f"1000 * max by (run) ({metric('run_last_observation_timestamp_seconds', JOB)})",
        "About": f"max by ({', '.join(_LABELS)}) ({about})",
    }
    panel = rows(
        "Runs",
        "One row per run, those in most trouble first: 10 for each critical alert, 1 for each warning, as Prometheus "
        "evaluates them; and 5 if failed or lost, 2 if stalled or preempted, or, in training, 10 or 1 if cumulative "
        f"sparsity is below {settings.cumulative_sparsity_critical:g} or {settings.cumulative_sparsity_warning:g}. "
        "Cumulative and step sparsity are those of the trained weights at the latest observation, by the criterion and "
        "in the dtype of the row. Click a run to open it. Metrics: ALERTS, sparsity_monitor_run_state, "
        "sparsity_monitor_run_changed_weights, sparsity_monitor_run_step_changed_weights, "
        "sparsity_monitor_run_weights, sparsity_monitor_run_frozen_weights, sparsity_monitor_run_step, "
        "sparsity_monitor_run_planned_steps, "
        "sparsity_monitor_run_last_observation_timestamp_seconds, sparsity_monitor_run_info.",
        "none",
        *(Query(expr, table=True) for expr in columns.values()),
        height=11,
        no_data=_NO_RUNS,
    )
    for transformation in _one_row_per_run(list(columns)):
        panel = panel.with_transformation(transformation)
    panel = coloured_cells(panel, "^Cumulative sparsity$", bands.cumulative_now(settings), "percentunit")
    panel = coloured_cells(panel, "^Step sparsity$", bands.step_now(settings), "percentunit")
    panel = coloured_cells(panel, "^Trouble$", [(None, "transparent"), (1, "orange"), (5, "red")])
    panel = coloured_cells(panel, "^State$", states.STEPS)
    panel = in_column(panel, "State", mappings=[states.names()])
    panel = in_column(panel, "Last observation", unit="dateTimeFromNow")
    for name, width in _WIDTHS.items():
        panel = in_column(panel, name, custom_width=width)
    for label in _LABELS:
        panel = in_column(panel, label, unit=TEXT)
    panel = in_column(panel, "name", links=[links.run_in_row("run"), links.by_step_in_row()])
    panel = hidden_columns(panel, "run", "service_url")
    return panel.sort_by([TableSortByFieldState().display_name("Trouble").desc(True)])


def _one_row_per_run(columns: list[str]) -> list[DataTransformerConfig]:
    """Put the answers side by side, in the order of the columns; the last one has the labels."""
    *shown_first, _ = columns
    values = [f"Value #{ref_id}" for ref_id, _ in zip("ABCDEFGHIJ", shown_first, strict=False)]
    # Grouped by what an answer without runs does not have, so that nothing is left of it: of empty columns, Grafana
    # would show the heads, and not that there are no runs.
    fields: dict[str, Any] = {label: {"operation": "groupby", "aggregations": []} for label in _LABELS}
    fields |= {value: {"operation": "aggregate", "aggregations": ["lastNotNull"]} for value in values}
    grouped = [f"{value} (lastNotNull)" for value in values]
    first, *others = grouped
    organise = {
        "indexByName": {name: index for index, name in enumerate([first, "name", *others])},
        "renameByName": dict(zip(grouped, shown_first, strict=True)),
    }
    return [
        DataTransformerConfig(id_val="merge", options={}),
        DataTransformerConfig(id_val="groupBy", options={"fields": fields}),
        DataTransformerConfig(id_val="organize", options=organise),
    ]


def _cumulative() -> Any:
    panel = lines(
        "Cumulative sparsity of all runs",
        "Share of the trained visible weights that equal the base, by each run's own criterion. "
        f"{bands.CUMULATIVE_MEANING} Metrics: sparsity_monitor_run_changed_weights, sparsity_monitor_run_weights, "
        "sparsity_monitor_run_frozen_weights.",
        "percentunit",
        Query(shown(CUMULATIVE_SPARSITY.at(Level.RUN, JOB), JOB), "{{name}}"),
        no_data=_NO_RUNS,
    )
    return _linked(banded(panel, bands.CUMULATIVE).min(0).max(1))


def _step() -> Any:
    panel = lines(
        "Step sparsity of all runs",
        f"Share of the trained visible weights that are the same as at the previous observation. {bands.STEP_MEANING} "
        "Metrics: sparsity_monitor_run_step_changed_weights, sparsity_monitor_run_weights, "
        "sparsity_monitor_run_frozen_weights.",
        "percentunit",
        Query(shown(STEP_SPARSITY.at(Level.RUN, JOB), JOB), "{{name}}"),
        no_data=_NO_RUNS,
    )
    return _linked(banded(panel, bands.STEP).max(1))


def _linked(panel: Any) -> Any:
    return in_series(panel, links=[links.run_of_series(), links.by_step_of_series()])


def _states() -> Any:
    # Of runs that the service no longer exports, and where it is down, the last that was heard within the range shown.
    heard = f"last_over_time({metric('run_last_heard_timestamp_seconds', JOB)}[$__range] @ end())"
    codes = f"{states.codes(JOB)} and on ({IDENTITY}) topk({_ROWS}, {heard})"
    names = ", ".join(states.COLOURS)
    panel = states_over_time(
        "State of all runs",
        f"Of the {_ROWS} runs that the service heard of last: {names}. Stalled: alive, no observations. Lost: silent. "
        "Stopped: early, by itself. Preempted: from outside. Metrics: sparsity_monitor_run_state, "
        "sparsity_monitor_run_last_heard_timestamp_seconds.",
        Query(shown_in_rows(codes, JOB), "{{name}} · {{id}}"),
        states.names(),
        _NO_RUNS,
    )
    return _linked(panel)
