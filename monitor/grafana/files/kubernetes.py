"""Rules and dashboards as Kubernetes resources, for the Prometheus operator and for Grafana's sidecar."""

from __future__ import annotations

from typing import Any

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards import all_dashboards
from monitor.grafana.files.text import as_json
from monitor.grafana.rules.prometheus_rules import prometheus_rules

NAME = "sparsity-monitor"
_LABELS = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": NAME}


def prometheus_rule(settings: AlertSettings) -> dict[str, Any]:
    """Return the rules as a PrometheusRule."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": NAME, "labels": _LABELS},
        "spec": prometheus_rules(settings),
    }


def dashboard_config_maps(settings: AlertSettings) -> list[dict[str, Any]]:
    """Return one ConfigMap per dashboard, which the sidecar of Grafana's Helm chart finds by its label.

    One each, because a ConfigMap that `kubectl apply` takes may have 256 KiB.
    """
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"{NAME}-dashboard-{file_name.removesuffix('.json')}",
                "labels": {**_LABELS, "grafana_dashboard": "1"},
                "annotations": {"grafana_folder": NAME},
            },
            "data": {f"{NAME}-{file_name}": as_json(dashboard)},
        }
        for file_name, dashboard in all_dashboards(settings).items()
    ]
