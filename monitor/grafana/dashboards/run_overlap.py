"""Panels of one run: whether its updates land where a reference mask is, more than by chance."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders.heatmap import FilterValueRange

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards import bands
from monitor.grafana.dashboards.matrix import matrix
from monitor.grafana.dashboards.panels import (
    NO_REFERENCE,
    NO_REFERENCE_GROUPS,
    Strength,
    banded,
    cells_over_time,
    coarse,
    dashed,
    lines,
)
from monitor.grafana.dashboards.query import GROUPS, ONE_RUN, REFERENCE, Query
from monitor.grafana.promql.metric import cut
from monitor.grafana.promql.ratios import CHANCE_O1, CHANCE_O2, JACCARD, LIFT, OVERLAP_O1, OVERLAP_O2, Level, z_score
from monitor.published import DISTILLATION_LOWEST

_OF_REFERENCE = {**ONE_RUN, **REFERENCE}
_CHOSEN = {**_OF_REFERENCE, **GROUPS}
_WHOLE = "whole run"
_BY_CHANCE = "by chance"
_METRICS = (
    "Metrics: sparsity_monitor_run_reference_intersection_weights, "
    "sparsity_monitor_run_reference_expected_intersection_weights, sparsity_monitor_run_reference_weights, "
    "sparsity_monitor_run_changed_weights."
)


def overlap_panels(settings: AlertSettings) -> list[Any]:
    """Overlap of update mask M and reference mask R."""
    return [
        _overlap(
            "o₁",
            "|M ∩ R| ÷ |M|: how much of the update mask is in the reference mask. Of “lowest:0.1”, published "
            f"{DISTILLATION_LOWEST} ({DISTILLATION_LOWEST.source}).",
            OVERLAP_O1,
            CHANCE_O1,
        ),
        _overlap("o₂", "|M ∩ R| ÷ |R|: how much of the reference mask is in the update mask.", OVERLAP_O2, CHANCE_O2),
        banded(
            lines(
                "Lift",
                "Observed ÷ expected overlap; 1 is chance, stratified by matrix. Of a structural reference, such as "
                "“lowest:0.1”, this is the enrichment. Red area: little more than chance. "
                "Published runs reach 1.65 (other seed) to 2.6 (other seed, data and algorithm), arXiv 2505.11711. "
                f"{_METRICS}",
                "none",
                Query(LIFT.at(Level.RUN, _OF_REFERENCE), "{{reference}}"),
                width=8,
                no_data=NO_REFERENCE,
            ),
            [(None, "rgba(224, 47, 68, 0.15)"), (settings.lift_chance, "transparent")],
        ).axis_soft_min(0),
        coarse(
            lines(
                "Overlap in standard deviations",
                "z-score: observed − expected overlap ÷ what it would vary by if the changed weights of each group "
                "lay anywhere among its trained ones (hypergeometric): whether the lift is more than luck, not how "
                "large it is. Overlap says where the optimizer went, not which weights are needed: full RL was matched "
                "by training the changed weights alone (arXiv 2505.11711), and by training random masks of 1 % (arXiv "
                "2602.01599). "
                "Metrics: sparsity_monitor_group_reference_intersection_weights, "
                "sparsity_monitor_group_reference_expected_intersection_weights, "
                "sparsity_monitor_group_reference_weights, sparsity_monitor_group_changed_weights, "
                "sparsity_monitor_group_weights, sparsity_monitor_group_frozen_weights.",
                "short",
                Query(z_score(_OF_REFERENCE), "{{reference}}"),
                width=8,
                no_data=NO_REFERENCE_GROUPS,
            )
        ),
        lines(
            "Jaccard",
            f"|M ∩ R| ÷ |M ∪ R|. Published pairs of runs reach 0.55–0.60 by module (arXiv 2511.08567). {_METRICS}",
            "percentunit",
            Query(JACCARD.at(Level.RUN, _OF_REFERENCE), "{{reference}}"),
            width=8,
            no_data=NO_REFERENCE,
        ),
        _enrichment(),
        _lift_over_time(),
    ]


def _lift_over_time() -> Any:
    # Prometheus sorts series by their labels, `by` before `layer`: the layers of a reference are beside each other.
    lift = cut("reference", 15, LIFT.at(Level.LAYER, _CHOSEN))
    by_reference = f'label_join({lift}, "by", " ", "reference", "layer")'
    panel = cells_over_time(
        "Lift by layer over time",
        "One row per layer and chosen reference, over the chosen modules; in full colour from 3 on, a little more "
        "than any published lift. Chance, which is 1, has a third of it. Metrics: "
        "sparsity_monitor_group_reference_intersection_weights, "
        "sparsity_monitor_group_reference_expected_intersection_weights.",
        "none",
        Query(by_reference, "{{by}}"),
        Strength(full=3),
        axis_width=140,
        height=16,
        no_data=NO_REFERENCE_GROUPS,
    )
    # By default Grafana hides zeros, and an overlap of nothing at all is what a reader looks for.
    return panel.filter_values(FilterValueRange().le(-1))


def _enrichment() -> Any:
    of_run = f'label_replace({LIFT.at(Level.RUN, _OF_REFERENCE)}, "layer", "{_WHOLE}", "", "")'
    return matrix(
        "Enrichment by layer",
        "Where updates land now: the lift in each layer, over the chosen modules, and of the whole run. Of a "
        "structural reference, that is the share of the changed weights that lie in it ÷ the share of all weights that "
        "do. “lowest:0.1” holds the 10 % of smallest magnitude of each matrix, “random:0.1” is the control, at 1. "
        f"{bands.ENRICHMENT_MEANING} Metrics: sparsity_monitor_group_reference_intersection_weights, "
        "sparsity_monitor_group_reference_expected_intersection_weights, "
        "sparsity_monitor_run_reference_intersection_weights, "
        "sparsity_monitor_run_reference_expected_intersection_weights.",
        f"max by (layer, reference) ({LIFT.at(Level.LAYER, _CHOSEN)} or {of_run})",
        bands.ENRICHMENT,
        down="layer",
        along="reference",
        unit="none",
        width=12,
        height=16,
        no_data=NO_REFERENCE_GROUPS,
    ).decimals(2)


def _overlap(name: str, meaning: str, observed: Any, chance: Any) -> Any:
    panel = lines(
        f"Overlap {name} against chance",
        f"{meaning} Dashed, “{_BY_CHANCE}”: what chance would give, stratified by matrix. {_METRICS}",
        "percentunit",
        Query(observed.at(Level.RUN, _OF_REFERENCE), "{{reference}}"),
        Query(chance.at(Level.RUN, _OF_REFERENCE), f"{{{{reference}}}} {_BY_CHANCE}"),
        no_data=NO_REFERENCE,
    )
    return dashed(panel, f" {_BY_CHANCE}$").min(0)
