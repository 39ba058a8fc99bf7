"""Compare: several runs beside each other."""

from __future__ import annotations

from typing import Any

from monitor.grafana.addresses import COMPARE_UID
from monitor.grafana.dashboards import bands, links, variables
from monitor.grafana.dashboards.board import Row, board
from monitor.grafana.dashboards.matrix import matrix
from monitor.grafana.dashboards.panels import (
    NAME_WIDTH,
    TEXT,
    banded,
    hidden_columns,
    in_column,
    in_series,
    lines,
    logarithmic,
    rows,
    said_by_runs,
)
from monitor.grafana.dashboards.query import GROUPS, JOB, REFERENCE, SOME_RUNS, Query
from monitor.grafana.promql.metric import IDENTITY, Matchers, known_runs, metric, shown, told_apart
from monitor.grafana.promql.ratios import (
    CHANGED_RATIO,
    CUMULATIVE_SPARSITY,
    LIFT,
    STEP_SPARSITY,
    TRANSIENT,
    Level,
    Ratio,
    relative_norm,
)

_LEGEND = "{{name}}"
_NONE_CHOSEN = "None of the chosen runs has reported this."
_CHOSEN = {**SOME_RUNS, **GROUPS}


def compare() -> dict[str, Any]:
    """Return the dashboard of several runs."""
    return board(
        COMPARE_UID,
        "sparsity-monitor / Compare",
        "Several runs side by side, chosen above.",
        variables=variables.of_runs(),
        rows=[
            Row("Is it still sparse?", _sparsity()),
            Row("Where do updates land?", [_matrix("layer", Level.LAYER), _matrix("module", Level.MODULE)]),
            Row("What moves?", _moving()),
            Row("What the trainer logged", [_training()]),
            Row("How it is measured", [_measured_as()]),
        ],
        alerts_of=SOME_RUNS,
    )


def _of_each_run(expr: str) -> str:
    """Return one series per chosen run, without values where the run has none, if any of the runs has some.

    Grafana gives colours in the order of series. So a run has one colour in all panels, whoever else is in them.
    """
    ours = f"max by ({IDENTITY}) ({expr})"
    without_values = f"NaN * max by ({IDENTITY}) ({metric('run_info', SOME_RUNS)})"
    return shown(f"{ours} or on ({IDENTITY}) ({without_values} and on () {ours})", JOB)


def _named(ratio: Ratio, matchers: Matchers = SOME_RUNS) -> str:
    return _of_each_run(ratio.at(Level.RUN, matchers))


def _sparsity() -> list[Any]:
    cumulative = lines(
        "Cumulative sparsity",
        "Share of the trained visible weights that equal the base, by each run's own criterion: compare only runs "
        f"that are measured the same way. {bands.CUMULATIVE_MEANING} Metrics: sparsity_monitor_run_changed_weights, "
        "sparsity_monitor_run_weights, sparsity_monitor_run_frozen_weights.",
        "percentunit",
        Query(_named(CUMULATIVE_SPARSITY), _LEGEND),
        no_data=_NONE_CHOSEN,
    )
    step = lines(
        "Step sparsity",
        f"Share of the trained visible weights that are the same as at the previous observation. {bands.STEP_MEANING} "
        "Metrics: sparsity_monitor_run_step_changed_weights, sparsity_monitor_run_weights, "
        "sparsity_monitor_run_frozen_weights.",
        "percentunit",
        Query(_named(STEP_SPARSITY), _LEGEND),
        no_data=_NONE_CHOSEN,
    )
    return [_linked(banded(cumulative, bands.CUMULATIVE).min(0).max(1)), _linked(banded(step, bands.STEP).max(1))]


def _linked(panel: Any) -> Any:
    return in_series(panel, links=[links.run_of_series(), links.by_step_of_series()])


def _matrix(label: str, level: Level) -> Any:
    density = shown(f"1 - ({CUMULATIVE_SPARSITY.at(level, _CHOSEN)})", JOB)
    return matrix(
        f"Cumulative density, {label} × run",
        f"Share of the trained visible weights of each {label} that differ from the base (1 − cumulative sparsity), "
        "one column per run. Metrics: sparsity_monitor_group_changed_weights, sparsity_monitor_group_weights, "
        "sparsity_monitor_group_frozen_weights.",
        f"max by ({label}, name) ({density})",
        bands.DENSITY,
        down=label,
        along="name",
        width=12,
    )


def _moving() -> list[Any]:
    panels = [
        lines(
            "Transient",
            "Share of the trained weights that changed at some observation and are back at the base. Metrics: "
            "sparsity_monitor_run_touched_weights, sparsity_monitor_run_changed_weights, "
            "sparsity_monitor_run_weights, sparsity_monitor_run_frozen_weights.",
            "percentunit",
            Query(_named(TRANSIENT), _LEGEND),
            width=8,
            no_data=_NONE_CHOSEN,
        ),
        lines(
            "Update norm",
            "Euclidean norm of the visible update. Metric: sparsity_monitor_run_update_norm.",
            "none",
            Query(_of_each_run(metric("run_update_norm", SOME_RUNS)), _LEGEND),
            width=8,
            no_data=_NONE_CHOSEN,
        ),
        lines(
            "Relative norm",
            "‖Δ‖ ÷ ‖θ₀‖: the update norm ÷ that of the trained base weights, which models of different sizes can be "
            "compared by. Metrics: sparsity_monitor_run_update_norm, sparsity_monitor_run_base_norm.",
            "percentunit",
            Query(_of_each_run(relative_norm(Level.RUN, SOME_RUNS)), _LEGEND),
            width=8,
            no_data=_NONE_CHOSEN,
        ),
        logarithmic(
            lines(
                "Changed ratio per weight sync",
                "Share of the trained visible weights that differ from one weight sync of the trainer to the next, on "
                "a logarithmic scale; between observations where no sync is known. Compare only runs with as many "
                "steps between. Published GRPO changes 0.2–1.1 % a step (arXiv 2602.03839). Metrics: "
                "sparsity_monitor_run_sync_changed_weights, sparsity_monitor_run_weights, "
                "sparsity_monitor_run_frozen_weights.",
                "percentunit",
                Query(_named(CHANGED_RATIO), _LEGEND),
                no_data=_NONE_CHOSEN,
            ),
            base=10,
        ),
    ]
    return [*(_linked(panel) for panel in panels), _lift()]


def _lift() -> Any:
    panel = lines(
        "Lift over $reference",
        "Observed ÷ expected overlap with the reference mask; 1 is chance. Metrics: "
        "sparsity_monitor_run_reference_intersection_weights, "
        "sparsity_monitor_run_reference_expected_intersection_weights.",
        "none",
        Query(_named(LIFT, {**SOME_RUNS, **REFERENCE}), _LEGEND),
        width=24,
        no_data="None of the chosen runs was given this reference mask.",
    )
    return _one_per(panel, "reference")


def _training() -> Any:
    logged = metric("run_training_metric", {**SOME_RUNS, "metric": '=~"$metric"'})
    panel = lines(
        "$metric",
        "What the trainers logged under this name. Metric: sparsity_monitor_run_training_metric.",
        "none",
        Query(_of_each_run(logged), _LEGEND),
        width=24,
        no_data="No trainer has logged a metric of this name; choose others above.",
    )
    return _one_per(panel, "metric")


def _one_per(panel: Any, variable: str) -> Any:
    return _linked(panel).repeat(variable).repeat_direction("h").max_per_row(3)


def _measured_as() -> Any:
    panel = rows(
        "What is measured",
        "Sparsities are comparable only where criterion, dtype and base are the same. Metric: "
        "sparsity_monitor_run_info.",
        TEXT,
        Query(told_apart(known_runs(SOME_RUNS)), table=True),
        no_data=_NONE_CHOSEN,
    )
    panel = hidden_columns(in_column(panel, "name", custom_width=NAME_WIDTH), "run", "service_url")
    panel = in_column(panel, "name", links=[links.run_in_row("run"), links.by_step_in_row()])
    return said_by_runs(panel)
