"""Where the dashboards are in a Grafana: their uids, which links, alerts and files refer to."""

from __future__ import annotations

FLEET_UID = "sparsity-monitor-fleet"
RUN_UID = "sparsity-monitor-run"
COMPARE_UID = "sparsity-monitor-compare"
SERVICE_UID = "sparsity-monitor-service"

DASHBOARD_UIDS = (FLEET_UID, RUN_UID, COMPARE_UID, SERVICE_UID)
