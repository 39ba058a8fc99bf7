"""Ways from one dashboard to another that keep the time and what was chosen."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import DashboardLink
from grafana_foundation_sdk.models.dashboard import DashboardLinkType

from monitor.grafana.addresses import RUN_UID

TAG = "sparsity-monitor"

_KEPT = "${__url_time_range}&${datasource:queryparam}&${job:queryparam}"


def to_the_others() -> DashboardLink:
    """A link in the head of each dashboard to every one of them."""
    link = DashboardLink("sparsity-monitor").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(False).include_vars(True).keep_time(True)


def run_in_row(column: str) -> dict[str, object]:
    """A link in a cell of a table to the run that the row is about.

    Args:
        column: name of the column with the run's id.
    """
    url = f"/d/{RUN_UID}?var-run=${{__data.fields.{column}}}&{_KEPT}"
    return {"title": "Show this run", "url": url, "targetBlank": False}


def run_of_series() -> dict[str, object]:
    """A link on a line of a graph to the run that it is about."""
    url = f"/d/{RUN_UID}?var-run=${{__field.labels.run}}&{_KEPT}"
    return {"title": "Show this run", "url": url, "targetBlank": False}
