"""Where the rules of Grafana's dashboard-linter do not hold, and why. The linter reads it beside the dashboards."""

from __future__ import annotations

from typing import Any

from monitor.grafana.addresses import SERVICE_UID
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards import all_dashboards

_RUN_IS_ITS_ID = (
    "A run is known by its label run, which stays the same when the service moves to another instance: choosing an "
    "instance would cut a run in two. The service dashboard, which is about instances, has the variable."
)


def lint_exceptions(settings: AlertSettings) -> dict[str, Any]:
    """Return the content of the file .lint."""
    about_runs = [board for board in all_dashboards(settings).values() if board["uid"] != SERVICE_UID]
    boards = [{"dashboard": board["title"]} for board in about_runs]
    # Not every version of the linter takes a dashboard for all of its panels.
    panels = [
        {"dashboard": board["title"], "panel": title}
        for board in about_runs
        for title in dict.fromkeys(panel["title"] for panel in board["panels"] if panel["type"] != "row")
    ]
    entries = {"template-instance-rule": boards, "target-instance-rule": panels}
    return {"exclusions": {rule: {"reason": _RUN_IS_ITS_ID, "entries": each} for rule, each in entries.items()}}
