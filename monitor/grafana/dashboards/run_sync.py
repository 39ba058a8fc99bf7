"""Panels of one run: what a weight sync changes and would have to transfer, and how large the update is."""

from __future__ import annotations

from typing import Any

from monitor.grafana.dashboards.panels import (
    NO_GROUPS,
    NOT_REPORTED,
    coarse,
    coloured_series,
    dashed,
    lines,
    logarithmic,
)
from monitor.grafana.dashboards.query import GROUPS, ONE_RUN, Query
from monitor.grafana.promql.metric import IDENTITY, metric
from monitor.grafana.promql.ratios import (
    CHANGED_RATIO,
    Level,
    as_bitmask,
    as_indices,
    bitmask_from,
    dense_from,
    relative_norm,
)
from monitor.grafana.promql.served import differing_groups

_BETWEEN = "between {{between}}"
_WHAT = (
    "Between syncs: from one hand-over of the trainer's weights to what generates, to the next. Between observations: "
    "where no sync of the trainer is known, or none is observed."
)
_NOT_ASKED = (
    "No engine was asked, or nothing of what it serves could be compared. SparsityCallback(…).attach(trainer) asks the "
    "vLLM of TRL's trainers; elsewhere, give the engine's fingerprints to served() of the watch or of the callback."
)
_CHOSEN = {**ONE_RUN, **GROUPS}
_CROSSOVERS = {"above: bitmask takes less": "blue", "above: dense takes less": "red"}
_WAYS = {
    "dense": "red",
    "as indices": "yellow",
    "as a bitmask": "blue",
    **{f"sparse, between {ends}": "green" for ends in ("syncs", "observations")},
}
_DIFFERING = {"not served as trained": "red", "compared": "text"}
_STEPS_OF = {"served": "green", "trained": "text"}


def sync_panels() -> list[Any]:
    """What changes from one weight sync to the next, and its bytes."""
    return [_changed_ratio(), _bytes(), _steps(), _served(), _served_step()]


def _changed_ratio() -> Any:
    ratio = CHANGED_RATIO.at(Level.RUN, ONE_RUN)
    bitmask, dense = _CROSSOVERS
    panel = lines(
        "Changed ratio per weight sync",
        f"Share of the trained visible weights that differ between the end points. {_WHAT} Dashed: the ratios from "
        "which on a bit per weight and the values take fewer bytes than indices and values (1/32 of all weights), and, "
        "where the run is anywhere near, sending every weight does (15/16 of all weights). Published GRPO changes "
        "0.2–1.1 % a step (arXiv 2602.03839). Metrics: sparsity_monitor_run_sync_changed_weights, "
        "sparsity_monitor_run_weights, sparsity_monitor_run_frozen_weights.",
        "percentunit",
        Query(ratio, _BETWEEN),
        Query(f"{bitmask_from(ONE_RUN)} and on ({IDENTITY}) {ratio}", bitmask),
        Query(f"({dense_from(ONE_RUN)}) and on ({IDENTITY}) ({ratio}) > 0.5", dense),
        width=8,
    )
    panel = dashed(coloured_series(panel, _CROSSOVERS), "^above: ")
    return panel.axis_soft_min(0)


def _bytes() -> Any:
    panel = lines(
        "Bytes per weight sync",
        "What a transfer takes for k changed of N weights of 16 bits, on a logarithmic scale: dense, 2N; as indices "
        "and values, 6k; as a bit per weight and values, N/8 + 2k; and sparse, the least of the three in each group "
        f"(arXiv 2602.03839). Where two lines cross, the other way takes less. {_WHAT} Metrics: "
        "sparsity_monitor_run_sync_sparse_bytes, sparsity_monitor_run_sync_dense_bytes, "
        "sparsity_monitor_run_sync_changed_weights, sparsity_monitor_run_weights.",
        "bytes",
        Query(metric("run_sync_dense_bytes", ONE_RUN), "dense"),
        Query(as_indices(ONE_RUN), "as indices"),
        Query(as_bitmask(ONE_RUN), "as a bitmask"),
        # Drawn last, above the one that it follows.
        Query(metric("run_sync_sparse_bytes", ONE_RUN), "sparse, between {{between}}"),
        width=8,
        no_data="Not reported; or visible weights are not of 16 bits, or some are unmeasured.",
    )
    return logarithmic(coloured_series(panel, _WAYS), base=2)


def _steps() -> Any:
    return lines(
        "Steps per weight sync",
        f"Optimizer steps between the two that are compared. {_WHAT} Metric: sparsity_monitor_run_sync_steps.",
        "none",
        Query(metric("run_sync_steps", ONE_RUN), _BETWEEN),
        width=8,
        no_data=NOT_REPORTED,
    ).axis_soft_min(0)


def _served() -> Any:
    differing, compared = _DIFFERING
    panel = lines(
        "Groups not served as trained",
        "Groups of weights in which the engine that generates differs from what trains, as the training asked it last: "
        "0 where it serves the weights that it was to. Dashed: how many were compared. Metrics: "
        "sparsity_monitor_run_served_differing_groups, sparsity_monitor_run_served_groups.",
        "none",
        Query(differing_groups(ONE_RUN), differing),
        Query(metric("run_served_groups", ONE_RUN), compared),
        width=12,
        no_data=_NOT_ASKED,
    )
    return dashed(coloured_series(panel, _DIFFERING), f"^{compared}$").axis_soft_min(0)


def _served_step() -> Any:
    served, trained = _STEPS_OF
    panel = lines(
        "Step that is served",
        "Optimizer step whose weights the engine was last found to serve, all of them; none until it once serves those "
        "of a step. Dashed: that of the latest observation. Between two syncs and two questions, the one is behind the "
        "other. Metrics: sparsity_monitor_run_served_step, sparsity_monitor_run_step, "
        "sparsity_monitor_run_served_groups (if asked).",
        "none",
        Query(metric("run_served_step", ONE_RUN), served),
        Query(metric("run_step", ONE_RUN) + " and " + metric("run_served_groups", ONE_RUN), trained),
        width=12,
        no_data=_NOT_ASKED,
    )
    return dashed(coloured_series(panel, _STEPS_OF), f"^{trained}$")


def norm_panels() -> list[Any]:
    """How large the update is against the base."""
    return [
        lines(
            "Relative norm",
            "‖Δ‖ ÷ ‖θ₀‖: Euclidean norm of the visible update ÷ that of the trained base weights. Published: 0.036–"
            "0.142 % for on-policy distillation, 11.9 % for offline distillation (arXiv 2606.13657). Metrics: "
            "sparsity_monitor_run_update_norm, sparsity_monitor_run_base_norm.",
            "percentunit",
            Query(relative_norm(Level.RUN, ONE_RUN), "relative norm"),
        ),
        coarse(
            lines(
                "Relative norm by layer",
                "‖Δ‖ ÷ ‖θ₀‖ of each layer, over the chosen modules: the root of the sums of squares. Metrics: "
                "sparsity_monitor_group_squared_update_norm, sparsity_monitor_group_squared_base_norm.",
                "percentunit",
                Query(relative_norm(Level.LAYER, _CHOSEN), "layer {{layer}}"),
                no_data=NO_GROUPS,
            )
        ),
    ]
