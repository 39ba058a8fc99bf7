"""Where our things are in a Grafana: uids and titles, which links, alerts, files and requests refer to."""

from __future__ import annotations

FLEET_UID = "sparsity-monitor-fleet"
RUN_UID = "sparsity-monitor-run"
COMPARE_UID = "sparsity-monitor-compare"
SERVICE_UID = "sparsity-monitor-service"

DASHBOARD_UIDS = (FLEET_UID, RUN_UID, COMPARE_UID, SERVICE_UID)

FOLDER_UID = "sparsity-monitor"
FOLDER_TITLE = "sparsity-monitor"
DATASOURCE_UID = "sparsity-monitor"

GROUP = "sparsity-monitor"
UID_PREFIX = "sm-"
"""Tells our rules from those that other people put into our group."""

OLDEST_VERSION = "9.3"
"""Of the versions of Grafana that take them."""
