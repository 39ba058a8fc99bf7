"""What the Fleet dashboard says about trouble, with Prometheus' alerts and without, against promtool."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards.fleet import fleet
from tests.grafana.alerts.rule_cases import PREEMPTED, RUN, Series, always, run
from tests.grafana.promql.evaluated import returns

PANELS = {panel["title"]: panel for panel in fleet(AlertSettings())["panels"]}
DENSE: Series = {run("run_changed_weights"): always(600)}
LOW: Series = {run("run_changed_weights"): always(320)}
FINISHED: Series = {run("run_state", state="running"): always(0), run("run_state", state="finished"): always(1)}
LOST: Series = {run("run_state", state="running"): always(0), run("run_state", state="lost"): always(1)}
RULES: Series = {f"run:sparsity_monitor_cumulative_sparsity:ratio{{{RUN}}}": always(0.8)}


def _alert(severity: str) -> Series:
    labels = f'alertname="{severity}", alertstate="firing", service="sparsity-monitor", severity="{severity}"'
    return {f"ALERTS{{{RUN}, {labels}}}": always(1)}


@pytest.mark.parametrize(
    ("series", "trouble"),
    [
        ({}, 0),
        (LOST, 5),
        (LOW, 1),
        (DENSE, 10),
        ({**DENSE, **FINISHED}, 0),
        ({**DENSE, **PREEMPTED}, 2),
        ({**_alert("critical"), **_alert("warning")}, 11),
    ],
    ids=["healthy", "lost", "low", "dense", "dense and finished", "preempted", "alerts"],
)
def test_trouble_needs_no_alerts_of_prometheus(series: Series, trouble: int, tmp_path: Path) -> None:
    query = PANELS["Runs"]["targets"][0]["expr"]
    returns(query, series, [{"labels": '{run="r"}', "value": trouble}], tmp_path)


@pytest.mark.parametrize(
    ("series", "firing"),
    [({}, None), (RULES, 0), ({**RULES, **_alert("critical")}, 1)],
    ids=["Prometheus has no rules of ours", "no alert", "an alert"],
)
def test_no_alert_is_said_only_by_who_would_know(series: Series, firing: int | None, tmp_path: Path) -> None:
    query = PANELS["Alerts firing"]["targets"][0]["expr"]
    returns(query, series, [] if firing is None else [{"labels": "{}", "value": firing}], tmp_path)
