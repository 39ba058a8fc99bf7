"""Panels of one run: whether its updates land where a reference mask is, more than by chance."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders.heatmap import FilterValueRange

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards.panels import NO_REFERENCE, banded, cells_over_time, lines
from monitor.grafana.dashboards.query import GROUPS, ONE_RUN, REFERENCE, Query
from monitor.grafana.promql.ratios import CHANCE_O1, CHANCE_O2, JACCARD, LIFT, OVERLAP_O1, OVERLAP_O2, Level

_OF_REFERENCE = {**ONE_RUN, **REFERENCE}
_METRICS = (
    "Metrics: sparsity_monitor_run_reference_intersection_weights, "
    "sparsity_monitor_run_reference_expected_intersection_weights, sparsity_monitor_run_reference_weights, "
    "sparsity_monitor_run_changed_weights."
)


def overlap_panels(settings: AlertSettings) -> list[Any]:
    """Overlap of update mask M and reference mask R."""
    return [
        _overlap("o₁", "|M ∩ R| ÷ |M|: how much of the update mask is in the reference mask.", OVERLAP_O1, CHANCE_O1),
        _overlap("o₂", "|M ∩ R| ÷ |R|: how much of the reference mask is in the update mask.", OVERLAP_O2, CHANCE_O2),
        banded(
            lines(
                "Lift",
                "Observed ÷ expected overlap; 1 is chance, stratified by matrix. Red area: little more than chance. "
                "Published runs reach 1.65 (other seed) to 2.6 (other seed, data and algorithm), arXiv 2505.11711. "
                f"{_METRICS}",
                "none",
                Query(LIFT.at(Level.RUN, _OF_REFERENCE), "{{reference}}"),
                width=8,
                no_data=NO_REFERENCE,
            ),
            [(None, "rgba(224, 47, 68, 0.15)"), (settings.lift_chance, "transparent")],
        ).axis_soft_min(0),
        lines(
            "Jaccard",
            f"|M ∩ R| ÷ |M ∪ R|. Published pairs of runs reach 0.55–0.60 by module (arXiv 2511.08567). {_METRICS}",
            "percentunit",
            Query(JACCARD.at(Level.RUN, _OF_REFERENCE), "{{reference}}"),
            width=8,
            no_data=NO_REFERENCE,
        ),
        cells_over_time(
            "Lift by layer over time",
            "One row per layer and chosen reference, over the chosen modules. Metrics: "
            "sparsity_monitor_group_reference_intersection_weights, "
            "sparsity_monitor_group_reference_expected_intersection_weights.",
            "none",
            Query(LIFT.at(Level.LAYER, {**_OF_REFERENCE, **GROUPS}), "{{layer}} {{reference}}"),
            width=8,
        )
        .no_value(NO_REFERENCE)
        # By default Grafana hides zeros, and an overlap of nothing at all is what a reader looks for.
        .filter_values(FilterValueRange().le(-1)),
    ]


def _overlap(name: str, meaning: str, observed: Any, chance: Any) -> Any:
    return lines(
        f"Overlap {name} against chance",
        f"{meaning} “By chance”: what chance would give, stratified by matrix. {_METRICS}",
        "percentunit",
        Query(observed.at(Level.RUN, _OF_REFERENCE), "{{reference}}"),
        Query(chance.at(Level.RUN, _OF_REFERENCE), "{{reference}} by chance"),
        no_data=NO_REFERENCE,
    ).min(0)
