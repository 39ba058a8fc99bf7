"""Rows of panels → the JSON of a dashboard, as Grafana 9.3 to 13 read it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync

from monitor.grafana.alerts.catalogue import SERVICE
from monitor.grafana.dashboards.links import TAG, to_the_others
from monitor.grafana.dashboards.query import DATASOURCE
from monitor.grafana.promql.metric import Matchers, braces

_COLUMNS = 24
_ROW_HEIGHT = 1
# What Grafana 9.3 knows. Newer ones take it over without a migration that would change what is seen.
_SCHEMA_VERSION = 37


@dataclass(frozen=True)
class Row:
    """Panels under one heading; they flow from left to right and down."""

    title: str
    panels: Sequence[Any]


def board(
    uid: str,
    title: str,
    description: str,
    *,
    variables: Iterable[QueryVariable | DatasourceVariable],
    rows: Iterable[Row],
    alerts_of: Matchers,
    links: Iterable[DashboardLink] = (),
) -> dict[str, Any]:
    """Return the JSON of a dashboard.

    Args:
        alerts_of: which alerts are drawn into its graphs.
        links: in its head, besides those to the other dashboards.
    """
    dashboard = Dashboard(title).uid(uid).description(f"{description} Generated: change the code, not this dashboard.")
    dashboard = dashboard.tags([TAG]).readonly().time("now-6h", "now").refresh("30s").timezone("browser")
    dashboard = dashboard.tooltip(DashboardCursorSync.CROSSHAIR).link(to_the_others()).annotation(_alerts(alerts_of))
    for link in links:
        dashboard = dashboard.link(link)
    for variable in variables:
        dashboard = dashboard.with_variable(variable)
    plain = _plain(dashboard)
    plain["panels"] = _laid_out(rows)
    plain["schemaVersion"] = _SCHEMA_VERSION
    for variable in plain["templating"]["list"]:
        # The SDK gives every variable what only one of interval type has.
        for name in ("auto", "auto_count", "auto_min"):
            variable.pop(name)
    for entry in (*plain["links"], *plain["annotations"]["list"]):
        # Grafana 12 would hide them in a menu.
        entry.pop("placement")
    return plain


def opening_with(datasource_uid: str, dashboard: dict[str, Any]) -> dict[str, Any]:
    """Choose the data source that a dashboard opens with: the default of a Grafana may be none of ours."""
    chosen = copy.deepcopy(dashboard)
    for variable in chosen["templating"]["list"]:
        if variable["name"] == "datasource":
            variable["current"] = {"selected": True, "text": datasource_uid, "value": datasource_uid}
    return chosen


def _alerts(matchers: Matchers) -> AnnotationQuery:
    firing = {**matchers, "alertstate": '="firing"', "service": f'="{SERVICE}"'}
    annotation = AnnotationQuery().name("Alerts").datasource(DATASOURCE).enable(True).icon_color("red")
    # In place of a label that an alert does not have, Grafana would show the label's name.
    about = f'label_join(ALERTS{braces(firing)}, "about", " ", "name", "layer", "module", "reference")'
    annotation = annotation.expr(about).step("30s").title_format("{{alertname}}").text_format("{{about}}")
    return annotation.tag_keys("severity")


def _laid_out(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Give panels their numbers and places: from left to right, and down where a line is full."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        place = {"h": _ROW_HEIGHT, "w": _COLUMNS, "x": 0, "y": top}
        heading = {"type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": place}
        panels.append({**heading, "id": len(panels) + 1})
        top += _ROW_HEIGHT
        left = height = 0
        for panel in map(_plain_panel, row.panels):
            place = panel["gridPos"]
            if left + place["w"] > _COLUMNS:
                top, left, height = top + height, 0, 0
            place.update(x=left, y=top)
            left, height = left + place["w"], max(height, place["h"])
            panels.append({**panel, "id": len(panels) + 1})
        top += height
    return panels


def _plain_panel(builder: Any) -> dict[str, Any]:
    panel = _plain(builder)
    if panel["type"] == "heatmap":
        # Grafana before 10.3 reads `show` instead of `mode`, and shows no tooltip without it.
        panel["options"]["tooltip"]["show"] = True
    return panel


def _plain(builder: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(builder.build()))
    return plain
