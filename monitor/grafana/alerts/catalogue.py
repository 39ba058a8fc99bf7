"""All alerts, from the one place where each is written."""

from __future__ import annotations

from monitor.grafana.alerts.alert import Alert
from monitor.grafana.alerts.running import running_alerts
from monitor.grafana.alerts.served import served_weights_stale
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.alerts.sparsity import sparsity_alerts

SERVICE = "sparsity-monitor"
"""Label `service` of every alert: what routes and inhibitions go by."""


def all_alerts(settings: AlertSettings) -> list[Alert]:
    """Return every alert, about sparsity first."""
    return [*sparsity_alerts(settings), served_weights_stale(settings), *running_alerts(settings)]


def labels(alert: Alert) -> dict[str, str]:
    """Return the labels that an alert has besides those of its series."""
    return {"service": SERVICE, "severity": alert.severity}


def texts(alert: Alert, settings: AlertSettings) -> dict[str, str]:
    """Return what people get to read."""
    return {
        "summary": alert.summary,
        "description": alert.description,
        "runbook_url": settings.runbook_of(alert.name),
    }
