"""Ways from one dashboard to another that keep the time and what was chosen, and to the service's own pages."""

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


def run_by_step() -> DashboardLink:
    """A link in the head of a dashboard about one run to the page where the service shows it, step by step."""
    link = DashboardLink("Run by step").type(DashboardLinkType.LINK).url(page_of_run()).icon("external link")
    link = link.tooltip("The service's own page of this run: Prometheus knows times, and no steps.")
    return link.include_vars(False).keep_time(False).target_blank(True)


def page_of_run(run: str = "${run:percentencode}", service_url: str = "${service_url:raw}") -> str:
    """Return the address of the service's page about a run, as links of Grafana have it.

    Args:
        run: where Grafana finds the run's id. By default in the variable of a dashboard about one run; of a row in
            `${__data.fields.run:percentencode}`, of a line in `${__field.labels.run:percentencode}`.
        service_url: where it finds the service: by default in the variable of the same dashboard.
    """
    return f"{service_url}/runs/{run}"


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
