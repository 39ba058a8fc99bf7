"""PromQL of what `served()` reports, and of what a trainer's engine answers."""

from __future__ import annotations

from monitor.grafana.promql.metric import NOTHING, Matchers, metric


def differing_groups(matchers: Matchers = NOTHING) -> str:
    """Return the groups that the engine does not serve as they are trained."""
    return metric("run_served_differing_groups", matchers)
