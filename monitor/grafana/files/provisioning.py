"""What Grafana reads from its provisioning directory: data sources, dashboards, alert rules, contact point."""

from __future__ import annotations

from typing import Any

from monitor.grafana.addresses import DATASOURCE_UID, FOLDER_TITLE, FOLDER_UID, GROUP
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.rules.managed_rules import INTERVAL_SECONDS, managed_rules
from monitor.grafana.rules.notifications import CONTACT_POINT, contact_point

DASHBOARD_DIRECTORY = "/var/lib/grafana/dashboards/sparsity-monitor"

# A folder of their own: Grafana makes it with a uid of its choice, and before it reads the dashboards, whose folder it
# would then refuse to make under the same title.
_ALERT_FOLDER = f"{FOLDER_TITLE} alerts"

# Grafana puts the value of its own environment variable here.
_WEBHOOK_VARIABLE = "${ALERT_WEBHOOK_URL}"


def data_sources() -> dict[str, Any]:
    """Return the data sources of the compose file."""
    prometheus = {
        "name": "Prometheus (sparsity-monitor)",
        "uid": DATASOURCE_UID,
        "type": "prometheus",
        "access": "proxy",
        "url": "http://prometheus:9090",
        "isDefault": True,
        "editable": False,
        "jsonData": {"httpMethod": "POST", "timeInterval": "15s"},
    }
    alertmanager = {
        "name": "Alertmanager (sparsity-monitor)",
        "uid": f"{DATASOURCE_UID}-alertmanager",
        "type": "alertmanager",
        "access": "proxy",
        "url": "http://alertmanager:9093",
        "editable": False,
        "jsonData": {"implementation": "prometheus"},
    }
    return {"apiVersion": 1, "datasources": [prometheus, alertmanager]}


def dashboard_provider() -> dict[str, Any]:
    """Return where Grafana finds the dashboards."""
    provider = {
        "name": FOLDER_TITLE,
        "type": "file",
        "folder": FOLDER_TITLE,
        "folderUid": FOLDER_UID,
        "disableDeletion": False,
        "allowUiUpdates": False,
        "options": {"path": DASHBOARD_DIRECTORY},
    }
    return {"apiVersion": 1, "providers": [provider]}


def alert_rules(settings: AlertSettings) -> dict[str, Any]:
    """Return the Grafana-managed rules."""
    group = {
        "orgId": 1,
        "name": GROUP,
        "folder": _ALERT_FOLDER,
        "interval": f"{INTERVAL_SECONDS}s",
        "rules": [_with_panel(rule) for rule in managed_rules(settings)],
    }
    return {"apiVersion": 1, "groups": [group]}


def _with_panel(rule: dict[str, Any]) -> dict[str, Any]:
    """In files the panel has fields of its own, besides the annotations."""
    notes = rule["annotations"]
    return {**rule, "dashboardUid": notes["__dashboardUid__"], "panelId": int(notes["__panelId__"])}


def contact_points() -> dict[str, Any]:
    """Return where Grafana-managed alerts go, and the policy that sends them there."""
    receiver = {key: value for key, value in contact_point(_WEBHOOK_VARIABLE).items() if key != "name"}
    default_route = {"orgId": 1, "receiver": CONTACT_POINT, "group_by": ["alertname", "run"]}
    return {
        "apiVersion": 1,
        "contactPoints": [{"orgId": 1, "name": CONTACT_POINT, "receivers": [receiver]}],
        "policies": [default_route],
    }
