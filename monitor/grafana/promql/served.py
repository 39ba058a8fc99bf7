"""PromQL of what `served()` reports among what the trainer logs: it is no metric of its own."""

from __future__ import annotations

from monitor.grafana.promql.metric import NOTHING, Matchers, metric

DIFFERING = "served_differing_groups"


def differing_groups(matchers: Matchers = NOTHING) -> str:
    """Return the groups that the engine does not serve as they are trained."""
    return metric("run_training_metric", {**matchers, "metric": f'="{DIFFERING}"'})
