"""The kinds of panels, each with title, description, unit, and what it means when there is no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import common, heatmap, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.models.common import (
    AxisPlacement,
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    HeatmapCellLayout,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    MatcherConfig,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale

from monitor.grafana.dashboards.query import DATASOURCE, Query

NOT_REPORTED = "The run has not reported this."
NO_GROUPS = "No series per layer: the run ended a while ago, or was rolled up by the series budget."
NO_REFERENCE = "The run was not given a reference mask."
NO_REFERENCE_GROUPS = (
    "The run was not given a reference mask, or has no series per layer: it ended a while ago, or was rolled up by the "
    "series budget."
)

Steps = list[tuple[float | None, str]]
"""Colours by value: each holds from its value up to the next; the first holds from below."""

TEXT = "string"
"""The unit of texts. With any other, Grafana takes what looks like a number for one: layer 07 is 700 % then."""

PER_SECOND = "suffix:/s"
"""The unit of rates, of whatever the panel is about."""

NAME_WIDTH = 330
"""Pixels of a column with names of runs: enough for what tells them apart and the beginning of what follows."""

_SHORT_WORDS = {"base_mode": 110, "criterion": 90, "stored_dtypes": 120, "visible_dtype": 120}
_POINTS_OF_GROUPS = 150
_EMPTY = "–"
_NO_DATA = "no data"
# Or it would have the colour of the smallest value, as if there were one.
NOTHING_TO_JUDGE = {"type": "special", "options": {"match": "null+nan", "result": {"text": _NO_DATA, "color": "text"}}}
# Or the legend would say for it what the whole panel says when it is empty.
_NOT_KNOWN = {
    "type": "special",
    "options": {"match": "null+nan", "result": {"text": _EMPTY, "color": "transparent"}},
}

PLAIN: Steps = [(None, "text")]


def lines(
    title: str, description: str, unit: str, *queries: Query, width: int = 12, no_data: str = NOT_REPORTED
) -> Any:
    """Return a panel of lines over time."""
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    legend = legend.placement(LegendPlacement.BOTTOM).calcs([])
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    panel = _common(timeseries.Panel(), title, description, unit, queries, width=width, height=8, no_data=no_data)
    panel = panel.color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    panel = panel.legend(legend).tooltip(tooltip).line_width(1).fill_opacity(0).show_points(VisibilityMode.AUTO)
    # A line ends where its series left the scrape; a scrape or two that failed leave no hole.
    return panel.span_nulls(120_000.0)


def coarse(panel: Any) -> Any:
    """Ask for fewer points than pixels: of all groups, or Prometheus is still at it when the dashboard asks again."""
    return panel.max_data_points(_POINTS_OF_GROUPS)


def banded(panel: timeseries.Panel, steps: Steps) -> Any:
    """Draw ranges of values as coloured areas behind the lines."""
    style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.AREA)
    return panel.thresholds(_thresholds(steps)).thresholds_style(style)


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    steps: Steps = PLAIN,
    *,
    width: int = 4,
    no_data: str = NOT_REPORTED,
) -> Any:
    """Return one large value, coloured by what it means."""
    # A text fills the panel, whatever its length: a sentence becomes so small that nobody can read it.
    description = f"{description} No data: {no_data}"
    panel = _common(stat.Panel(), title, description, unit, (query,), width=width, height=4, no_data=_NO_DATA)
    panel = panel.mappings([NOTHING_TO_JUDGE])
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)
    panel = panel.reduce_options(reduce).color_mode(BigValueColorMode.VALUE).graph_mode(BigValueGraphMode.NONE)
    return _by_threshold(panel, steps)


def rows(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 24,
    height: int = 8,
    no_data: str = NOT_REPORTED,
) -> Any:
    """Return a table."""
    panel = _common(table.Panel(), title, description, unit, queries, width=width, height=height, no_data=no_data)
    # What a table says when it has no rows would otherwise stand in each of its empty cells as well.
    return panel.with_override(_columns(".*"), [DynamicConfigValue("noValue", _EMPTY)])


@dataclass(frozen=True)
class Strength:
    """How strong a colour shows a value: not at all at 0, more and more up to `full`, and no more above it.

    Attributes:
        full: the value, the same for all runs, so that a colour means one thing.
        exponent: of the share of `full`; below 1, small values differ more than large ones.
    """

    full: float
    exponent: float = 1


def cells_over_time(
    title: str,
    description: str,
    unit: str,
    query: Query,
    strength: Strength,
    *,
    width: int = 12,
    height: int = 9,
    axis_width: int = 0,
    no_data: str = NO_GROUPS,
) -> Any:
    """Return one row per series, its values as strengths of one colour.

    Args:
        axis_width: pixels for the names of rows, of which Grafana cuts the beginning; by default it makes room itself.
    """
    # It says "No data" whatever it is told to say.
    description = f"{description} No data: {no_data}"
    panel = _common(heatmap.Panel(), title, description, unit, (query,), width=width, height=height, no_data=_NO_DATA)
    panel = coarse(_saying_that_it_is_empty(panel))
    # One colour on the background of whichever theme; schemes from light to dark are turned round in the dark one.
    colour = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.OPACITY).fill("orange").steps(64)
    colour = colour.scale(HeatmapColorScale.EXPONENTIAL).exponent(strength.exponent).min(0).max(strength.full)
    cells = heatmap.RowsHeatmapOptions().layout(HeatmapCellLayout.UNKNOWN)
    axis = heatmap.YAxisConfig().axis_placement(AxisPlacement.LEFT)
    if axis_width:
        axis = axis.axis_width(axis_width)
    values = heatmap.CellValues().unit(unit)
    return panel.calculate(False).cell_gap(0).color(colour).rows_frame(cells).y_axis(axis).cell_values(values)


def states_over_time(title: str, description: str, query: Query, mapping: dict[str, Any], no_data: str) -> Any:
    """Return one row per series, its states as names and colours.

    Args:
        mapping: names and colours of the numbers that stand for states.
    """
    panel = _common(statetimeline.Panel(), title, description, "none", (query,), width=24, height=10, no_data=no_data)
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    legend = legend.placement(LegendPlacement.BOTTOM).calcs([])
    # Coloured by thresholds, it would join equal states into ranges of numbers and forget what they are called.
    panel = panel.mappings([mapping, _NOT_KNOWN]).color_scheme(FieldColor().mode(FieldColorModeId.FIXED)).legend(legend)
    return _saying_that_it_is_empty(panel).show_value(VisibilityMode.AUTO)


def _saying_that_it_is_empty(panel: Any) -> Any:
    """Drop frames without fields: Grafana 12 shows an error of its own in place of `noValue` where it gets one."""
    named = {"include": {"pattern": ".*"}}
    return panel.with_transformation(DataTransformerConfig(id_val="filterFieldsByName", options=named))


def said_by_runs(panel: Any) -> Any:
    """Leave out of a table of `run_info` what its scrape says, in Prometheus alone or in Kubernetes.

    Columns of short words leave their room to names and bases.
    """
    of_kubernetes = ("container", "endpoint", "namespace", "pod", "service")
    left_out = dict.fromkeys(("Time", "Value", "__name__", "id", "job", "instance", *of_kubernetes), True)
    organise = {"excludeByName": left_out, "indexByName": {"name": 0}}
    for name, width in _SHORT_WORDS.items():
        panel = in_column(panel, name, custom_width=width)
    return panel.with_transformation(DataTransformerConfig(id_val="organize", options=organise))


def hidden_columns(panel: Any, *names: str) -> Any:
    """Hide columns of a table that its links need."""
    for name in names:
        # The first is how Grafana up to 12.1 says it, the second since 12.2.
        panel = in_column(panel, name, custom_hidden=True, custom_hideFrom={"viz": True})
    return panel


def coloured_cells(panel: Any, pattern: str, steps: Steps, unit: str | None = None) -> Any:
    """Colour the cells of the columns of a table whose names match; empty ones stay without a colour."""
    empty = {"text": _EMPTY, "color": "transparent", "index": 0}
    # The matrix of Grafana up to 9.3 fills its gaps with empty texts, that of newer ones with null.
    mappings = [{"type": "special", "options": {"match": each, "result": empty}} for each in ("null+nan", "empty")]
    properties = [
        DynamicConfigValue("mappings", mappings),
        # The first is how Grafana up to 9.3 says it, the second since 9.4; each ignores the other.
        DynamicConfigValue("custom.displayMode", "color-background-solid"),
        DynamicConfigValue("custom.cellOptions", {"type": "color-background", "mode": "basic"}),
        DynamicConfigValue("thresholds", {"mode": "absolute", "steps": [{"value": v, "color": c} for v, c in steps]}),
    ]
    if unit:
        properties.append(DynamicConfigValue("unit", unit))
    return panel.with_override(_columns(pattern), properties)


def in_column(panel: Any, name: str, **properties: Any) -> Any:
    """Set properties of one column or series, by its name; underscores stand for dots."""
    values = [DynamicConfigValue(key.replace("_", "."), value) for key, value in properties.items()]
    return panel.with_override(MatcherConfig(id_val="byName", options=name), values)


def in_series(panel: Any, **properties: Any) -> Any:
    """Set properties of all series of a panel."""
    values = [DynamicConfigValue(key, value) for key, value in properties.items()]
    return panel.with_override(_columns(".*"), values)


def logarithmic(panel: Any, base: int) -> Any:
    """Let values that are a hundredth of others be told apart: on a linear axis, they lie on the line of zero."""
    scale = common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(base)
    return panel.scale_distribution(scale)


def dashed(panel: Any, pattern: str) -> Any:
    """Draw the series whose names match as what others are compared with."""
    style = {"fill": "dash", "dash": [10, 10]}
    return panel.with_override(_columns(pattern), [DynamicConfigValue("custom.lineStyle", style)])


def coloured_series(panel: Any, colours: dict[str, str]) -> Any:
    """Give series a colour that means something."""
    for name, colour in colours.items():
        panel = in_column(panel, name, color={"mode": "fixed", "fixedColor": colour})
    return panel


def _columns(pattern: str) -> MatcherConfig:
    return MatcherConfig(id_val="byRegexp", options=f"/{pattern}/")


def _by_threshold(panel: Any, steps: Steps) -> Any:
    return panel.thresholds(_thresholds(steps)).color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))


def _thresholds(steps: Steps) -> ThresholdsConfig:
    thresholds = [Threshold(value=value, color=colour) for value, colour in steps]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds)


def _common(
    panel: Any,
    title: str,
    description: str,
    unit: str,
    queries: tuple[Query, ...],
    *,
    width: int,
    height: int,
    no_data: str,
) -> Any:
    panel = panel.title(title).description(description).unit(unit).span(width).height(height).no_value(no_data)
    panel = panel.datasource(DATASOURCE)
    for ref_id, query in zip("ABCDEFGHIJKL", queries, strict=False):
        panel = panel.with_target(query.target(ref_id))
    return panel
