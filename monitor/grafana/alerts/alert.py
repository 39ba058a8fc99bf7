"""What an alert is, before it becomes a Prometheus rule, a Grafana-managed rule, or a chapter of the runbook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from monitor.grafana.promql.ratios import Reading


@dataclass(frozen=True)
class Alert:
    """One alert. It fires for each series that its expression returns, once that lasted for `hold_seconds`.

    Summary and description are Go templates over `.Labels` and `.Value`. They hold no dollar sign: in provisioning
    files Grafana would take it for an environment variable.

    Attributes:
        name: also the anchor in the runbook.
        panel: dashboard and title of the panel that shows what it is about.
        expr: PromQL, given a way to read the ratios.
        meaning: what is the matter, for the runbook.
        actions: what to do, in order, for the runbook.
    """

    name: str
    severity: Literal["critical", "warning"]
    expr: Callable[[Reading], str]
    hold_seconds: int
    panel: tuple[str, str]
    summary: str
    description: str
    meaning: str
    actions: tuple[str, ...]
