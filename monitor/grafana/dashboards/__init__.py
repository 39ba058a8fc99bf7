"""The dashboards, as JSON that Grafana 9.3 to 13 read."""

from __future__ import annotations

from typing import Any

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards.compare import compare
from monitor.grafana.dashboards.fleet import fleet
from monitor.grafana.dashboards.run import run
from monitor.grafana.dashboards.service_health import service_health


def all_dashboards(settings: AlertSettings) -> dict[str, dict[str, Any]]:
    """Return the dashboards by their file names."""
    return {
        "fleet.json": fleet(settings),
        "run.json": run(settings),
        "compare.json": compare(),
        "service-health.json": service_health(),
    }
