"""A table of two labels: one down the side, one along the top, the values as colours."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders.common import TableSortByFieldState
from grafana_foundation_sdk.models.dashboard import DataTransformerConfig

from monitor.grafana.dashboards.panels import NO_GROUPS, TEXT, Steps, coloured_cells, in_column, rows
from monitor.grafana.dashboards.query import Query


def matrix(
    title: str,
    description: str,
    expr: str,
    colours: Steps,
    *,
    down: str,
    along: str,
    unit: str = "percentunit",
    width: int = 24,
    height: int = 10,
    no_data: str = NO_GROUPS,
) -> Any:
    """Return a table of values.

    Args:
        expr: returns one value for each pair of the labels `down` and `along`.
    """
    panel = rows(title, description, unit, Query(expr, table=True), width=width, height=height, no_data=no_data)
    # Prometheus returns what it has now in any order.
    panel = panel.with_transformation(
        DataTransformerConfig(id_val="sortBy", options={"fields": {}, "sort": [{"field": along}]})
    )
    options = {"rowField": down, "columnField": along, "valueField": "Value", "emptyValue": "null"}
    panel = panel.with_transformation(DataTransformerConfig(id_val="groupingToMatrix", options=options))
    # The column that names the rows is called by both labels.
    corner = f"{down}\\{along}"
    panel = in_column(panel, corner, unit=TEXT)
    panel = panel.sort_by([TableSortByFieldState().display_name(corner).desc(False)])
    return coloured_cells(panel, rf"^(?!{down}\\{along}$).*", colours, unit)
