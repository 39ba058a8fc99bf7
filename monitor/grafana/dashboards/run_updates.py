"""Panels of one run: how sparse its updates are, where they land, and what moves."""

from __future__ import annotations

from typing import Any

from monitor.grafana.dashboards import bands
from monitor.grafana.dashboards.matrix import matrix
from monitor.grafana.dashboards.panels import (
    NO_GROUPS,
    Strength,
    banded,
    cells_over_time,
    coarse,
    coloured_series,
    in_column,
    lines,
)
from monitor.grafana.dashboards.query import GROUPS, ONE_RUN, Query
from monitor.grafana.promql.metric import metric
from monitor.grafana.promql.ratios import (
    CHANGED,
    CUMULATIVE_SPARSITY,
    CUMULATIVE_SPARSITY_AT_TOLERANCE,
    HIDDEN,
    STEP_SPARSITY,
    TOUCHED,
    TRANSIENT,
    WHOLE_MODEL_CUMULATIVE_SPARSITY,
    Level,
)

_CHOSEN = {**ONE_RUN, **GROUPS}
_STEP_FULL = 0.10
_OF_GROUPS = (
    "Metrics: sparsity_monitor_group_changed_weights, sparsity_monitor_group_weights, "
    "sparsity_monitor_group_frozen_weights."
)


def sparsity_panels() -> list[Any]:
    """Cumulative and step sparsity, with what published runs show."""
    cumulative = lines(
        "Cumulative sparsity",
        "Share of the trained visible weights that equal the base; also at each absolute tolerance, and of the whole "
        f"model. {bands.CUMULATIVE_MEANING} Metrics: sparsity_monitor_run_changed_weights, "
        "sparsity_monitor_run_changed_at_tolerance_weights, sparsity_monitor_run_weights, "
        "sparsity_monitor_run_frozen_weights, sparsity_monitor_run_unmeasured_weights.",
        "percentunit",
        Query(CUMULATIVE_SPARSITY.at(Level.RUN, ONE_RUN), "by the run's criterion"),
        Query(CUMULATIVE_SPARSITY_AT_TOLERANCE.at(Level.RUN, ONE_RUN), "atol={{tolerance}}"),
        Query(WHOLE_MODEL_CUMULATIVE_SPARSITY.at(Level.RUN, ONE_RUN), "of the whole model"),
    )
    step = lines(
        "Step sparsity",
        f"Share of the trained visible weights that are the same as at the previous observation. {bands.STEP_MEANING} "
        "Metrics: sparsity_monitor_run_step_changed_weights, sparsity_monitor_run_weights, "
        "sparsity_monitor_run_frozen_weights.",
        "percentunit",
        Query(STEP_SPARSITY.at(Level.RUN, ONE_RUN), "step sparsity"),
    )
    return [banded(cumulative, bands.CUMULATIVE).min(0).max(1), banded(step, bands.STEP).max(1)]


def where_panels() -> list[Any]:
    """Layer by module now, and over time."""
    return [
        _matrix(),
        cells_over_time(
            "Cumulative density by layer over time",
            "One row per layer, from no change (empty) to every weight (full colour), on the same scale for all runs; "
            "small densities are spread out, as square roots. Cumulative density is 1 − cumulative sparsity, "
            f"both of the trained weights; frozen layers have no row. {_OF_GROUPS}",
            "percentunit",
            Query(f"1 - ({CUMULATIVE_SPARSITY.at(Level.LAYER, _CHOSEN)})", "{{layer}}"),
            Strength(full=1, exponent=0.5),
            height=11,
        ),
        cells_over_time(
            "Step density by layer over time",
            "One row per layer: the share of its trained visible weights that changed since the previous observation, "
            f"as square roots, in full colour from {100 * _STEP_FULL:g} % on: published RL and SFT stay below half of "
            "it, one step apart. Metrics: sparsity_monitor_group_step_changed_weights, sparsity_monitor_group_weights, "
            "sparsity_monitor_group_frozen_weights.",
            "percentunit",
            Query(f"1 - ({STEP_SPARSITY.at(Level.LAYER, _CHOSEN)})", "{{layer}}"),
            Strength(full=_STEP_FULL, exponent=0.5),
            height=11,
        ),
        coarse(
            lines(
                "Cumulative sparsity by layer",
                f"Trained visible weights of each layer that equal the base, over the chosen modules. {_OF_GROUPS}",
                "percentunit",
                Query(CUMULATIVE_SPARSITY.at(Level.LAYER, _CHOSEN), "layer {{layer}}"),
                no_data=NO_GROUPS,
            )
        ),
        coarse(
            lines(
                "Cumulative sparsity by module",
                f"Trained visible weights of each module that equal the base, over the chosen layers. {_OF_GROUPS}",
                "percentunit",
                Query(CUMULATIVE_SPARSITY.at(Level.MODULE, _CHOSEN), "{{module}}"),
                no_data=NO_GROUPS,
            )
        ),
    ]


def _matrix() -> Any:
    return matrix(
        "Cumulative density, layer × module",
        "Share of the trained visible weights that differ from the base (1 − cumulative sparsity), one row per layer, "
        "one column per module; what is frozen stays empty. The darkest red is denser than any published RL run. "
        f"{_OF_GROUPS}",
        f"max by (layer, module) (1 - ({CUMULATIVE_SPARSITY.at(Level.GROUP, _CHOSEN)}))",
        bands.DENSITY,
        down="layer",
        along="module",
    )


def moving_panels() -> list[Any]:
    """What changes, what comes back, what is hidden, how far it goes."""
    return [
        coloured_series(
            lines(
                "Newly changed and reverted",
                "Weights that have come to differ from the base since the previous observation, and weights that have "
                "returned to it. Where the two are equal, the update mask keeps its size. Metrics: "
                "sparsity_monitor_run_newly_changed_weights, sparsity_monitor_run_reverted_weights.",
                "short",
                Query(metric("run_newly_changed_weights", ONE_RUN), "newly changed"),
                Query(metric("run_reverted_weights", ONE_RUN), "reverted"),
            ),
            {"newly changed": "orange", "reverted": "blue"},
        ),
        lines(
            "Touched and transient",
            "Touched: changed at some observation so far. Transient: touched, and now back at the base. Changed: "
            "differs from the base now. All as shares of the trained weights. Metrics: "
            "sparsity_monitor_run_touched_weights, sparsity_monitor_run_changed_weights, "
            "sparsity_monitor_run_weights, sparsity_monitor_run_frozen_weights.",
            "percentunit",
            Query(TOUCHED.at(Level.RUN, ONE_RUN), "touched"),
            Query(CHANGED.at(Level.RUN, ONE_RUN), "changed"),
            Query(TRANSIENT.at(Level.RUN, ONE_RUN), "transient"),
        ),
        lines(
            "Hidden",
            "Share of the trained weights whose stored value differs from the base while the visible one does not: "
            "movement below the resolution of the visible dtype. Metrics: sparsity_monitor_run_hidden_weights, "
            "sparsity_monitor_run_weights, sparsity_monitor_run_frozen_weights.",
            "percentunit",
            Query(HIDDEN.at(Level.RUN, ONE_RUN), "hidden"),
            width=8,
        ),
        in_column(
            lines(
                "Update size",
                "Euclidean norm of the visible update, and, on the right, the largest change of one weight. Metrics: "
                "sparsity_monitor_run_update_norm, sparsity_monitor_run_update_max_abs.",
                "none",
                Query(metric("run_update_norm", ONE_RUN), "norm"),
                Query(metric("run_update_max_abs", ONE_RUN), "largest"),
                width=8,
            ),
            "largest",
            custom_axisPlacement="right",
        ),
        coarse(
            lines(
                "Non-finite weights",
                "Visible weights that are NaN or infinite, in the chosen layers and modules. Metric: "
                "sparsity_monitor_group_non_finite_weights.",
                "short",
                Query(f"sum by (layer) ({metric('group_non_finite_weights', _CHOSEN)})", "layer {{layer}}"),
                width=8,
                no_data=NO_GROUPS,
            )
        ),
    ]
