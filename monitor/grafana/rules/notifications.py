"""Where Grafana sends the alerts that it manages: one webhook, and the route that leads there."""

from __future__ import annotations

from typing import Any

from monitor.grafana.alerts.catalogue import SERVICE

CONTACT_POINT = "sparsity-monitor"
CONTACT_POINT_UID = "sparsity-monitor-webhook"


def contact_point(webhook_url: str) -> dict[str, Any]:
    """Return a contact point of type webhook."""
    return {
        "uid": CONTACT_POINT_UID,
        "name": CONTACT_POINT,
        "type": "webhook",
        "settings": {"url": webhook_url, "httpMethod": "POST"},
        "disableResolveMessage": False,
    }


def route() -> dict[str, Any]:
    """Return the route of our alerts, and of no others."""
    return {
        "receiver": CONTACT_POINT,
        "object_matchers": [["service", "=", SERVICE]],
        "group_by": ["alertname", "run"],
        "group_wait": "30s",
        "group_interval": "5m",
        "repeat_interval": "12h",
    }
