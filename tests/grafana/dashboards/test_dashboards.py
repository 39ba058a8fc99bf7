"""The dashboards as files: the rules of Grafana's dashboard-linter, and what our readers need besides.

That every query returns data is tested end to end, against a real Prometheus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from monitor.grafana.addresses import COMPARE_UID, FLEET_UID, RUN_UID, SERVICE_UID
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.dashboards import all_dashboards, links, states
from monitor.grafana.dashboards.query import ONE_RUN
from monitor.grafana.files.lint_exceptions import lint_exceptions
from monitor.grafana.promql.metric import metric, told_apart
from monitor.grafana.promql.ratios import RECORDED
from monitor.published import RL_CUMULATIVE, RL_STEP, SFT_CUMULATIVE, SFT_STEP, Band
from monitor.service.quantities.families import FAMILIES
from monitor.service.quantities.run_state import RunState

DASHBOARDS = {board["title"]: board for board in all_dashboards(AlertSettings()).values()}
EXCEPTIONS = lint_exceptions(AlertSettings())["exclusions"]

# Panels that exist in Grafana 9.3 and in 13.
KNOWN_PANELS = {"row", "timeseries", "stat", "table", "heatmap", "state-timeline"}
KNOWN_UNITS = {"none", "short", "percentunit", "s", "bytes", "suffix:/s", "string"}
# What Prometheus itself knows about a scrape, and about alerts.
SCRAPED = {"up", "scrape_duration_seconds", "ALERTS"}
RECORDS = {ratio.record(level) for ratio, levels in RECORDED.items() for level in levels}
PAGES_OF_RUNS = {str(each["url"]) for each in (links.by_step(), links.by_step_in_row(), links.by_step_of_series())}
METRIC = r"(?<![\w:-])(?:(?:run\w*:)?sparsity_monitor_\w+(?::ratio)?|up|scrape_duration_seconds|ALERTS)\b"
GUARDED = {"heatmap", "state-timeline"}
# Pixels, seen in Grafana 12: the widest average of a letter in our titles, and what stands beside a title.
LETTER = 7.4
BESIDE_A_TITLE = 75
OVER_TIME = {"timeseries", "heatmap"}
SHORT_OF_WORDS = {"stat", "heatmap"}
HISTOGRAM = ("_bucket", "_count", "_sum")


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (panel for panel in board["panels"] if panel["type"] != "row")


ALL_PANELS = [
    pytest.param(board, panel, id=f"{title.split(' / ')[1]}: {panel['title']}")
    for title, board in DASHBOARDS.items()
    for panel in panels(board)
]
BOARDS = [pytest.param(board, id=title) for title, board in DASHBOARDS.items()]

Board = dict[str, Any]
Panel = dict[str, Any]


def metrics_in(expr: str) -> set[str]:
    names = re.findall(METRIC, expr)
    return {re.sub(r"_(bucket|count|sum)$", "", name) if "store_commit" in name else name for name in names}


def selectors(expr: str) -> list[str]:
    """What stands in the braces of each metric of the expression."""
    return re.findall(METRIC + r"(\{[^}]*\})?", expr)


def is_excepted(rule: str, board: Board, panel: Panel | None = None) -> bool:
    """As the linter compares: an entry names the dashboard, and the panel where the rule is about panels."""
    entry = {"dashboard": board["title"]} | ({"panel": panel["title"]} if panel else {})
    return entry in EXCEPTIONS.get(rule, {}).get("entries", [])


# ------------------------------------------------------------------------------------- the rules of dashboard-linter


@pytest.mark.parametrize("board", BOARDS)
def test_template_datasource_rule(board: Board) -> None:
    (variable,) = [each for each in board["templating"]["list"] if each["type"] == "datasource"]
    assert (variable["name"], variable["label"], variable["query"]) == ("datasource", "Data source", "prometheus")


@pytest.mark.parametrize("name", ["job", "instance"])
@pytest.mark.parametrize("board", BOARDS)
def test_template_job_and_instance_rules(board: Board, name: str) -> None:
    found = [each for each in board["templating"]["list"] if each["name"] == name]
    if is_excepted(f"template-{name}-rule", board):
        assert found == [], "the exception is not needed"
        return
    (variable,) = found
    assert variable["type"] == "query"
    assert variable["datasource"]["uid"] == "${datasource}"
    assert variable["label"] == name.capitalize()
    assert variable["multi"] is True
    assert variable["allValue"] == ".+"


@pytest.mark.parametrize("board", BOARDS)
def test_template_label_promql_and_reload_rules(board: Board) -> None:
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            assert re.fullmatch(r"(label_values|query_result)\(.+\)", variable["query"]), variable["name"]
            assert variable["refresh"] == 2, "on time range change"


@pytest.mark.parametrize(("board", "panel"), ALL_PANELS)
def test_panel_rules(board: Board, panel: Panel) -> None:
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["title"]
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"] in KNOWN_UNITS
    assert panel["targets"]


@pytest.mark.parametrize("name", ["job", "instance"])
@pytest.mark.parametrize(("board", "panel"), ALL_PANELS)
def test_target_job_and_instance_rules(board: Board, panel: Panel, name: str) -> None:
    for target in panel["targets"]:
        assert selectors(target["expr"])
        if not is_excepted(f"target-{name}-rule", board, panel):
            assert all(f'{name}=~"${name}"' in matcher for matcher in selectors(target["expr"])), target["expr"]


@pytest.mark.parametrize(("board", "panel"), ALL_PANELS)
def test_target_rate_interval_and_counter_rules(board: Board, panel: Panel) -> None:
    for target in panel["targets"]:
        for function, window in re.findall(r"\b(rate|irate|increase)\([^\[]*\[([^\]]*)\]", target["expr"]):
            assert window == "$__rate_interval", f"{function} in {target['expr']}"
        for counter in re.finditer(r"sparsity_monitor_\w+_total", target["expr"]):
            before = target["expr"][: counter.start()]
            assert before.endswith(("rate(", "increase(")), target["expr"]


@pytest.mark.parametrize("board", BOARDS)
def test_uneditable_dashboard_rule(board: Board) -> None:
    assert board["editable"] is False


def test_every_exception_has_a_reason_and_names_dashboards_that_exist() -> None:
    for exception in EXCEPTIONS.values():
        assert exception["reason"]
        assert {entry["dashboard"] for entry in exception["entries"]} < set(DASHBOARDS)


# ------------------------------------------------------------------------------------------------- what readers need


def test_the_four_dashboards_have_their_addresses() -> None:
    assert {board["uid"] for board in DASHBOARDS.values()} == {FLEET_UID, RUN_UID, COMPARE_UID, SERVICE_UID}
    assert all(len(board["uid"]) <= 40 for board in DASHBOARDS.values())


@pytest.mark.parametrize("board", BOARDS)
def test_variables_that_are_used_exist_and_those_that_exist_are_used(board: Board) -> None:
    names = {variable["name"] for variable in board["templating"]["list"]}
    queries = [each.get("query") for each in board["templating"]["list"]]
    everything = str([board["panels"], board["annotations"], board["links"], queries])
    used = set(re.findall(r"\$\{?(?!__)(\w+)", everything)) & (names | {"job", "instance", "run", "layer", "module"})
    assert used == names


@pytest.mark.parametrize(("board", "panel"), ALL_PANELS)
def test_description_names_the_metrics_of_the_panel(board: Board, panel: Panel) -> None:
    for name in set().union(*(metrics_in(target["expr"]) for target in panel["targets"])):
        # The names of runs, and where their service is, are joined to everything.
        if name not in ("sparsity_monitor_run_info", "sparsity_monitor_service_info"):
            assert re.search(rf"\b{name}\b", panel["description"]), f"{name} is in a query and not in the description"


@pytest.mark.parametrize(("board", "panel"), ALL_PANELS)
def test_every_metric_is_one_that_the_service_exports(board: Board, panel: Panel) -> None:
    known = {family.name for family in FAMILIES} | SCRAPED | RECORDS
    for target in panel["targets"]:
        assert metrics_in(target["expr"]) <= known
    assert metrics_in(panel["description"]) <= known


@pytest.mark.parametrize(("board", "panel"), ALL_PANELS)
def test_no_data_is_explained(board: Board, panel: Panel) -> None:
    said = panel["fieldConfig"]["defaults"]["noValue"]
    if panel["type"] in SHORT_OF_WORDS:
        # A stat makes the letters of a sentence so small that nobody can read it; a heatmap says "No data" at any rate.
        assert said == "no data"
        said = panel["description"].partition(" No data: ")[2]
    assert len(said) > 20


@pytest.mark.parametrize(("board", "panel"), [each for each in ALL_PANELS if each.values[1]["type"] == "table"])
def test_empty_cells_say_nothing_about_the_table(board: Board, panel: Panel) -> None:
    of_all, *of_columns = panel["fieldConfig"]["overrides"]
    assert of_all == {
        "matcher": {"id": "byRegexp", "options": "/.*/"},
        "properties": [{"id": "noValue", "value": "–"}],
    }
    for properties in ({each["id"]: each["value"] for each in column["properties"]} for column in of_columns):
        if "custom.cellOptions" in properties:
            results = {each["options"]["match"]: each["options"]["result"] for each in properties["mappings"]}
            assert {result["color"] for result in results.values()} == {"transparent"}
            assert set(results) == {"null+nan", "empty"}


@pytest.mark.parametrize(("board", "panel"), ALL_PANELS)
def test_sparsity_and_density_are_named_with_their_kind(board: Board, panel: Panel) -> None:
    for text in (panel["title"], panel["description"]):
        bare = re.sub(r"sparsity_monitor_\w+|sparsity-monitor|Bands?: .*?\(arXiv [\d.]+\)\.", "", text)
        for match in re.finditer(r"sparsity|density", bare, re.IGNORECASE):
            before = bare[: match.start()].lower()
            assert before.endswith(("cumulative ", "step ", "cumulative and step ")), bare


@pytest.mark.parametrize(("board", "panel"), ALL_PANELS)
def test_panel_is_of_a_kind_that_grafana_9_3_knows(board: Board, panel: Panel) -> None:
    assert panel["type"] in KNOWN_PANELS


@pytest.mark.parametrize(("board", "panel"), [each for each in ALL_PANELS if each.values[1]["type"] == "table"])
def test_labels_in_tables_are_texts_even_where_they_look_like_numbers(board: Board, panel: Panel) -> None:
    if panel["fieldConfig"]["defaults"]["unit"] == "string":
        return
    units = {
        override["matcher"]["options"]: each["value"]
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
        if each["id"] == "unit"
    }
    for transformation in panel["transformations"]:
        if transformation["id"] == "groupingToMatrix":
            options = transformation["options"]
            assert units[rf"{options['rowField']}\{options['columnField']}"] == "string"
            return
    labels = set().union(
        *(re.findall(r"\w+", each) for each in re.findall(r"max by \(([^)]*)\)", str(panel["targets"])))
    )
    assert {label for label, unit in units.items() if unit == "string"} == labels


@pytest.mark.parametrize("title", ["Run", "Compare"])
def test_table_of_what_is_measured_leaves_out_what_the_scrape_adds(title: str) -> None:
    (panel,) = [
        each for each in panels(DASHBOARDS[f"sparsity-monitor / {title}"]) if each["title"] == "What is measured"
    ]
    (organize,) = panel["transformations"]
    assert {"job", "instance", "namespace", "pod"} <= set(organize["options"]["excludeByName"])


@pytest.mark.parametrize("panel", [each.values[1] for each in ALL_PANELS if each.values[1]["type"] == "heatmap"])
def test_heatmap_shows_values_in_old_and_new_versions(panel: Panel) -> None:
    assert panel["options"]["tooltip"] == {"mode": "single", "show": True}


@pytest.mark.parametrize("panel", [each.values[1] for each in ALL_PANELS if each.values[1]["type"] in GUARDED])
def test_empty_frames_do_not_reach_panels_that_fail_on_them(panel: Panel) -> None:
    """Grafana 12 shows a TypeError, or "Data does not have a time field"; without frames, it says what is wrong."""
    first, *_ = panel["transformations"]
    assert first == {"id": "filterFieldsByName", "options": {"include": {"pattern": ".*"}}}


@pytest.mark.parametrize("panel", [each.values[1] for each in ALL_PANELS if each.values[1]["type"] == "heatmap"])
def test_dense_looks_dense_in_every_theme_and_run(panel: Panel) -> None:
    colour = panel["options"]["color"]
    assert colour["mode"] == "opacity", "Grafana turns schemes from light to dark round in the dark theme"
    assert colour["min"] == 0
    assert colour["max"] > 0, "the densest run would set the scale"
    assert panel["options"]["legend"]["show"], "what the colours mean is written on the panel"


@pytest.mark.parametrize("panel", [each.values[1] for each in ALL_PANELS if each.values[1]["type"] == "state-timeline"])
def test_states_have_names_over_time(panel: Panel) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    named, _ = defaults["mappings"]
    assert {each["text"] for each in named["options"].values()} == {str(state) for state in RunState}
    assert defaults["color"]["mode"] == "fixed", "by thresholds, equal states become ranges without names"
    assert panel["options"]["showValue"] == "auto"
    assert panel["options"]["legend"]["showLegend"]
    assert panel["options"]["perPage"] == 0, "there would be a pager under a single page"


@pytest.mark.parametrize(("board", "panel"), [each for each in ALL_PANELS if "$" not in each.values[1]["title"]])
def test_titles_are_not_cut(board: Board, panel: Panel) -> None:
    """In a window of 1600 pixels, of which Grafana's menu takes 300."""
    columns = (1600 - 300 - 32) / 24
    room = columns * panel["gridPos"]["w"] - 8 - BESIDE_A_TITLE
    assert LETTER * len(panel["title"]) <= room


@pytest.mark.parametrize("board", BOARDS)
def test_panels_beside_each_other_are_equally_high(board: Board) -> None:
    heights: dict[int, set[int]] = {}
    for panel in board["panels"]:
        heights.setdefault(panel["gridPos"]["y"], set()).add(panel["gridPos"]["h"])
    assert all(len(each) == 1 for each in heights.values())


@pytest.mark.parametrize(("title", "small"), [("Update size", {"largest"}), ("Steps", {"stride", "attempt"})])
def test_small_series_are_not_flattened_by_large_ones(title: str, small: set[str]) -> None:
    (panel,) = [each for each in panels(DASHBOARDS["sparsity-monitor / Run"]) if each["title"] == title]
    right = {"id": "custom.axisPlacement", "value": "right"}
    overrides = panel["fieldConfig"]["overrides"]
    assert {each["matcher"]["options"] for each in overrides if right in each["properties"]} == small


@pytest.mark.parametrize(
    ("board", "title", "base"), [("Run", "Bytes per weight sync", 2), ("Compare", "Changed ratio per weight sync", 10)]
)
def test_sparse_and_dense_are_told_apart_on_one_axis(board: str, title: str, base: int) -> None:
    """On a linear one, what is a hundredth of the dense lies on the line of zero."""
    (panel,) = [each for each in panels(DASHBOARDS[f"sparsity-monitor / {board}"]) if each["title"] == title]
    assert panel["fieldConfig"]["defaults"]["custom"]["scaleDistribution"] == {"type": "log", "log": base}
    assert "logarithmic" in panel["description"]


def test_crossovers_of_transfers_are_lines_with_names() -> None:
    """A coloured area is of all weights, not of the trained ones, and out of sight in a run far below it."""
    (panel,) = [
        each
        for each in panels(DASHBOARDS["sparsity-monitor / Run"])
        if each["title"] == "Changed ratio per weight sync"
    ]
    _, *crossovers = panel["targets"]
    assert all("sparsity_monitor_run_frozen_weights" in each["expr"] for each in crossovers)
    dashed = [
        each["matcher"]["options"]
        for each in panel["fieldConfig"]["overrides"]
        if "custom.lineStyle" in [one["id"] for one in each["properties"]]
    ]
    (pattern,) = dashed
    assert all(re.search(pattern.strip("/"), each["legendFormat"]) for each in crossovers)


@pytest.mark.parametrize("panel", [each.values[1] for each in ALL_PANELS if each.values[1]["type"] in OVER_TIME])
def test_what_reads_every_group_over_time_asks_for_few_points(panel: Panel) -> None:
    """A query of every pixel took longer than the dashboard waits before it asks again, and never was answered."""
    of_groups = any("sparsity_monitor_group_" in target["expr"] for target in panel["targets"])
    assert panel.get("maxDataPoints", 1000) <= 200 or not of_groups


def test_colour_of_no_data_says_neither_good_nor_bad() -> None:
    for panel in (each.values[1] for each in ALL_PANELS if each.values[1]["type"] == "stat"):
        *_, nothing = panel["fieldConfig"]["defaults"]["mappings"]
        assert nothing["options"] == {"match": "null+nan", "result": {"text": "no data", "color": "text"}}


def test_heatmap_of_lift_shows_a_lift_of_nothing() -> None:
    (panel,) = [
        each for each in panels(DASHBOARDS["sparsity-monitor / Run"]) if each["title"] == "Lift by layer over time"
    ]
    # Grafana hides what is at most this.
    assert panel["options"]["filterValues"]["le"] < 0


def test_layers_of_a_reference_are_beside_each_other_in_the_heatmap_of_lift() -> None:
    (panel,) = [
        each for each in panels(DASHBOARDS["sparsity-monitor / Run"]) if each["title"] == "Lift by layer over time"
    ]
    (target,) = panel["targets"]
    named = target["legendFormat"].strip("{}")
    assert f'"{named}", " ", "reference", "layer")' in target["expr"]
    # Prometheus sorts series by their labels, and Grafana shows them in this order.
    assert named < min("instance", "job", "layer")
    # Left to itself, Grafana 12.2 cut the beginning of "low magnitude 00".
    assert panel["options"]["yAxis"]["axisWidth"] >= LETTER * len("a reference of 00")


@pytest.mark.parametrize("board", BOARDS)
def test_panels_have_numbers_of_their_own_and_do_not_overlap(board: Board) -> None:
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + column, place["y"] + line) for column in range(place["w"]) for line in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_table_of_one_run_begins_with_what_tells_it_apart_and_has_room_for_it() -> None:
    (panel,) = (each for each in panels(DASHBOARDS["sparsity-monitor / Run"]) if each["title"] == "What is measured")
    (target,) = panel["targets"]
    assert target["expr"] == told_apart(metric("run_info", ONE_RUN))
    widths = {
        override["matcher"]["options"]: each["value"]
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
        if each["id"] == "custom.width"
    }
    assert widths["name"] >= 280


@pytest.mark.parametrize(
    ("title", "alarming", "compared_with"),
    [("Groups not served as trained", "not served as trained", "compared"), ("Step that is served", None, "trained")],
)
def test_what_is_served_is_told_from_what_it_is_compared_with(
    title: str, alarming: str | None, compared_with: str
) -> None:
    (panel,) = (each for each in panels(DASHBOARDS["sparsity-monitor / Run"]) if each["title"] == title)
    overrides = panel["fieldConfig"]["overrides"]
    colours = {
        each["matcher"]["options"]: value["value"]["fixedColor"]
        for each in overrides
        for value in each["properties"]
        if value["id"] == "color"
    }
    dashed = [e["matcher"]["options"] for e in overrides for v in e["properties"] if v["id"] == "custom.lineStyle"]
    assert set(colours) == {target["legendFormat"] for target in panel["targets"]}
    assert [name for name, colour in colours.items() if colour == "red"] == ([alarming] if alarming else [])
    assert colours[compared_with] == "text"
    assert dashed == [f"/^{compared_with}$/"]


@pytest.mark.parametrize("board", BOARDS)
def test_links_keep_time_and_variables_and_alerts_are_drawn_in(board: Board) -> None:
    link, *others = board["links"]
    assert [each["title"] for each in others] == (["Run by step"] if board["uid"] == RUN_UID else [])
    assert (link["type"], link["keepTime"], link["includeVars"]) == ("dashboards", True, True)
    assert set(link["tags"]) <= set(board["tags"])
    (annotation,) = board["annotations"]["list"]
    assert annotation["expr"].startswith('label_join(ALERTS{job=~"$job"')
    # Grafana writes the name of a label that is not there; these are.
    made = {"alertname", *re.findall(r'\}, "(\w+)"', annotation["expr"])}
    assert set(re.findall(r"\{\{(\w+)\}\}", annotation["titleFormat"] + annotation["textFormat"])) <= made
    for url in re.findall(r"'url': '([^']+)'", str(board["panels"])):
        if url in PAGES_OF_RUNS:
            continue
        # Ids may hold spaces, "&" and "#".
        assert re.match(rf"/d/{RUN_UID}\?var-run=\${{__[^}}]+:percentencode}}&", url)
        assert "${__url_time_range}" in url
        assert "${datasource:queryparam}" in url


@pytest.mark.parametrize(("board", "panel"), [each for each in ALL_PANELS if each.values[0]["uid"] != SERVICE_UID])
def test_panels_lead_to_the_run_step_by_step(board: Board, panel: Panel) -> None:
    urls = set(re.findall(r"'url': '([^']+)'", str(panel["fieldConfig"])))
    if board["uid"] == RUN_UID:
        assert panel["type"] in ("table", "heatmap") or links.page_of_run() in urls
        return
    # A matrix has runs for columns, and a count is about none.
    if "groupingToMatrix" not in str(panel.get("transformations")) and panel["type"] != "stat":
        assert urls & PAGES_OF_RUNS, "nothing leads to the service's page"
        assert "service_url" in str(panel["targets"])
    for name in re.findall(r"__data\.fields\.(\w+)", str(urls)):
        hidden = [each for each in panel["fieldConfig"]["overrides"] if each["matcher"]["options"] == name]
        assert {"id": "custom.hidden", "value": True} in [each for one in hidden for each in one["properties"]]


def test_run_leads_to_the_page_of_the_service_that_knows_it() -> None:
    board = DASHBOARDS["sparsity-monitor / Run"]
    link = board["links"][1]
    # As it is, and encoded: ids may hold spaces, "?" and "#".
    assert link["url"] == "${service_url:raw}/runs/${run:percentencode}"
    assert (link["type"], link["targetBlank"], link["includeVars"], link["keepTime"]) == ("link", True, False, False)
    (variable,) = [each for each in board["templating"]["list"] if each["name"] == "service_url"]
    assert variable["hide"] == 2
    sample = 'sparsity_monitor_service_info{instance="a",job="b",service_url="https://monitor.example"} 1 1700000000000'
    assert re.search(variable["regex"].strip("/"), sample)[1] == "https://monitor.example"  # type: ignore[index]


def test_no_link_carries_several_values_to_a_variable_of_one() -> None:
    variables = [each for board in DASHBOARDS.values() for each in board["templating"]["list"] if "multi" in each]
    several = {each["name"] for each in variables if each["multi"]}
    assert several.isdisjoint(each["name"] for each in variables if not each["multi"])


def test_every_line_and_row_of_compare_leads_to_its_run() -> None:
    for panel in panels(DASHBOARDS["sparsity-monitor / Compare"]):
        is_matrix = "groupingToMatrix" in str(panel.get("transformations"))
        assert is_matrix or f"/d/{RUN_UID}?var-run=" in str(panel["fieldConfig"]), panel["title"]


@pytest.mark.parametrize("title", ["Fleet", "Run", "Compare"])
@pytest.mark.parametrize(
    ("sparsity", "sft", "rl"), [("Cumulative", SFT_CUMULATIVE, RL_CUMULATIVE), ("Step", SFT_STEP, RL_STEP)]
)
def test_published_bands_are_drawn_in(title: str, sparsity: str, sft: Band, rl: Band) -> None:
    board = DASHBOARDS[f"sparsity-monitor / {title}"]
    (panel,) = [
        each
        for each in panels(board)
        if each["type"] == "timeseries" and re.fullmatch(f"{sparsity} sparsity( of all runs)?", each["title"])
    ]
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["custom"]["thresholdsStyle"] == {"mode": "area"}
    edges = [step["value"] for step in defaults["thresholds"]["steps"]]
    assert edges == [None, *sft[:2], *rl[:2]]
    assert all(str(band) in panel["description"] for band in (rl, sft))


def _thresholds_of_cells(panel: Panel) -> list[dict[str, Any]]:
    properties = [each for override in panel["fieldConfig"]["overrides"] for each in override["properties"]]
    (thresholds,) = [each["value"] for each in properties if each["id"] == "thresholds"]
    steps: list[dict[str, Any]] = thresholds["steps"]
    return steps


def test_published_enrichment_is_drawn_in_beside_the_runs_own() -> None:
    """25–49 % of the changed weights in the lowest tenth are 2.5–4.9 times chance."""
    (panel,) = [each for each in panels(DASHBOARDS["sparsity-monitor / Run"]) if each["title"] == "Enrichment by layer"]
    edges = [step["value"] for step in _thresholds_of_cells(panel)]
    assert edges[-2:] == [2.5, 4.9]
    # Chance has a colour of its own, which is neither of less nor of more.
    assert edges[:3] == [None, 0.9, 1.1]
    assert "2.5–4.9" in panel["description"]
    assert "25–49 %" in panel["description"]
    (target,) = panel["targets"]
    assert "sum without (module)" in target["expr"]
    assert "sparsity_monitor_run_reference_expected_intersection_weights" in target["expr"]


def test_overlap_is_said_to_be_no_proof_of_need() -> None:
    (panel,) = [
        each
        for each in panels(DASHBOARDS["sparsity-monitor / Run"])
        if each["title"] == "Overlap in standard deviations"
    ]
    assert "z-score" in panel["description"]
    assert "not which weights are needed" in panel["description"]
    assert all(source in panel["description"] for source in ("2505.11711", "2602.01599"))


@pytest.mark.parametrize(("board", "panel"), ALL_PANELS)
def test_series_have_names_for_people(board: Board, panel: Panel) -> None:
    many = panel["type"] in ("timeseries", "state-timeline") and board["uid"] in (FLEET_UID, COMPARE_UID)
    for target in panel["targets"]:
        if many:
            assert "{{name}}" in target["legendFormat"]
        assert target["refId"]


def test_states_are_those_of_the_service() -> None:
    assert set(states.COLOURS) == {str(state) for state in RunState}
