"""Dashboards as grafana.com and Grafana's own import want them: they say what they need, and ask for a data source."""

from __future__ import annotations

from typing import Any

from monitor.grafana.addresses import OLDEST_VERSION
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards import all_dashboards
from monitor.grafana.dashboards.board import opening_with
from monitor.grafana.files.text import as_json

# Whoever imports a dashboard chooses what stands here.
_INPUT = "DS_PROMETHEUS"
_PANELS = {
    "heatmap": "Heatmap",
    "stat": "Stat",
    "state-timeline": "State timeline",
    "table": "Table",
    "timeseries": "Time series",
}


def files_for_grafana_com(settings: AlertSettings) -> dict[str, str]:
    """Return path → text of each dashboard."""
    return {name: as_json(_shared(dashboard)) for name, dashboard in all_dashboards(settings).items()}


def _shared(dashboard: dict[str, Any]) -> dict[str, Any]:
    kinds = sorted({panel["type"] for panel in dashboard["panels"]} - {"row"})
    prometheus = {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"}
    return {
        **opening_with(f"${{{_INPUT}}}", dashboard),
        "id": None,
        "__elements": {},
        "__inputs": [
            {
                "name": _INPUT,
                "label": "Prometheus",
                "description": "The Prometheus that scrapes the service.",
                "type": "datasource",
                "pluginId": "prometheus",
                "pluginName": "Prometheus",
            }
        ],
        "__requires": [
            {"type": "grafana", "id": "grafana", "name": "Grafana", "version": f"{OLDEST_VERSION}.0"},
            prometheus,
            *({"type": "panel", "id": kind, "name": _PANELS[kind], "version": ""} for kind in kinds),
        ],
    }
