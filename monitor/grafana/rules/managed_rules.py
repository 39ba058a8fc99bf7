"""The same alerts as Grafana manages them: for its provisioning files, and for its HTTP API.

They read the metrics themselves, so that they need no recording rules; and they differ from Prometheus' rules in form:
a query, its last value, and a condition that holds for each series that the query returned.
"""

from __future__ import annotations

import re
from typing import Any

from monitor.grafana.addresses import DATASOURCE_UID, UID_PREFIX
from monitor.grafana.alerts.alert import Alert
from monitor.grafana.alerts.catalogue import all_alerts, labels, texts
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards import all_dashboards
from monitor.grafana.promql.ratios import WrittenOut

INTERVAL_SECONDS = 60

_EXPRESSIONS = "__expr__"
_LOOK_BACK_SECONDS = 600


def rule_uid(alert: Alert) -> str:
    """Return the uid of an alert in Grafana, which may have 40 characters."""
    return UID_PREFIX + re.sub(r"(?<=[a-z])(?=[A-Z])", "-", alert.name).lower()


def managed_rules(settings: AlertSettings, datasource_uid: str = DATASOURCE_UID) -> list[dict[str, Any]]:
    """Return the rules, in the form that file and API have in common."""
    numbers = _panel_numbers(settings)
    return [_rule(alert, numbers[alert.panel], settings, datasource_uid) for alert in all_alerts(settings)]


def _panel_numbers(settings: AlertSettings) -> dict[tuple[str, str], int]:
    """Dashboard and title of each panel → its number. A title that comes twice is that of the later, larger one."""
    boards = all_dashboards(settings).values()
    return {(board["uid"], panel["title"]): panel["id"] for board in boards for panel in board["panels"]}


def _rule(alert: Alert, panel_number: int, settings: AlertSettings, datasource_uid: str) -> dict[str, Any]:
    # Grafana draws the alert into this panel, and links from one to the other.
    panel = {"__dashboardUid__": alert.panel[0], "__panelId__": str(panel_number)}
    return {
        "uid": rule_uid(alert),
        "title": alert.name,
        "condition": "C",
        "data": [
            _query(alert, datasource_uid),
            _expression("B", {"type": "reduce", "expression": "A", "reducer": "last"}),
            # Whatever the value is: the query returns only what is wrong, and zero may be wrong, too.
            _expression("C", {"type": "math", "expression": "is_number($B) || is_nan($B) || is_inf($B)"}),
        ],
        # No series is no alert. A query that fails is shown as such, and is no alert about a run.
        "noDataState": "OK",
        "execErrState": "Error",
        "for": f"{alert.hold_seconds}s",
        "labels": labels(alert),
        "annotations": {**{name: _for_grafana(text) for name, text in texts(alert, settings).items()}, **panel},
    }


def _query(alert: Alert, datasource_uid: str) -> dict[str, Any]:
    model = {
        "refId": "A",
        "expr": alert.expr(WrittenOut()),
        "instant": True,
        "range": False,
        "intervalMs": 1000,
        "maxDataPoints": 43200,
    }
    return {
        "refId": "A",
        "queryType": "",
        "relativeTimeRange": {"from": _LOOK_BACK_SECONDS, "to": 0},
        "datasourceUid": datasource_uid,
        "model": model,
    }


def _expression(ref_id: str, model: dict[str, Any]) -> dict[str, Any]:
    datasource = {"type": _EXPRESSIONS, "uid": _EXPRESSIONS}
    return {
        "refId": ref_id,
        "queryType": "",
        "relativeTimeRange": {"from": 0, "to": 0},
        "datasourceUid": _EXPRESSIONS,
        "model": {"refId": ref_id, "datasource": datasource, "intervalMs": 1000, "maxDataPoints": 43200, **model},
    }


def _for_grafana(text: str) -> str:
    """In Grafana, .Value is a text about all queries; the number is that of the reduced query."""
    return text.replace(".Value ", ".Values.B.Value ")
