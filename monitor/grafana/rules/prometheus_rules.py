"""Recording and alerting rules as Prometheus reads them."""

from __future__ import annotations

from typing import Any

from monitor.grafana.alerts.catalogue import all_alerts, labels, texts
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.promql.ratios import RECORDED, Recorded

RECORDING_GROUP = "sparsity-monitor-ratios"
ALERT_GROUP = "sparsity-monitor-alerts"


def prometheus_rules(settings: AlertSettings) -> dict[str, Any]:
    """Return the content of a rule file."""
    return {
        "groups": [
            {"name": RECORDING_GROUP, "rules": _recording_rules()},
            {"name": ALERT_GROUP, "rules": _alerting_rules(settings)},
        ]
    }


def _recording_rules() -> list[dict[str, Any]]:
    return [
        {"record": ratio.record(level), "expr": ratio.at(level)}
        for ratio, levels in RECORDED.items()
        for level in levels
    ]


def _alerting_rules(settings: AlertSettings) -> list[dict[str, Any]]:
    rules = []
    for alert in all_alerts(settings):
        rule: dict[str, Any] = {"alert": alert.name, "expr": alert.expr(Recorded())}
        if alert.hold_seconds:
            rule["for"] = f"{alert.hold_seconds}s"
        rules.append({**rule, "labels": labels(alert), "annotations": texts(alert, settings)})
    return rules
