"""Whatever a run is called, people find it by its name and queries by its id; against promtool where it is PromQL."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from monitor.grafana.dashboards import variables
from monitor.grafana.dashboards.board import board
from monitor.grafana.dashboards.query import JOB, SOME_RUNS
from monitor.grafana.promql.metric import known_runs, metric, shown, shown_in_rows, told_apart
from monitor.served_metrics import NAMES
from tests.end_to_end.panel_queries import offered
from tests.grafana.alerts.rule_cases import RUN, Series, always
from tests.grafana.dashboards.nasty_names import NASTY_NAMES
from tests.grafana.promql.evaluated import returns

_SCRAPED = 'job="sparsity-monitor", instance="s"'
_SERVICE: Series = {f'sparsity_monitor_service_info{{{_SCRAPED}, service_url="https://m.example"}}': always(1)}


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _named(run: str, name: str) -> tuple[str, Series]:
    """Return the query of a run, with what tells it apart, and the run."""
    info = f"sparsity_monitor_run_info{{{_SCRAPED}, run={_quoted(run)}, name={_quoted(name)}}}"
    return told_apart(metric("run_info", {"run": f"={_quoted(run)}"})), {info: always(1)}


def _variable(builder: Any) -> dict[str, Any]:
    made = board("u", "t", "", variables=[builder], rows=[], alerts_of=JOB)
    (variable,) = made["templating"]["list"]
    return dict(variable)


@pytest.mark.parametrize("name", NASTY_NAMES)
@pytest.mark.parametrize("builder", [variables.run, variables.runs])
def test_a_variable_offers_the_whole_name_and_the_id(builder: Any, name: str) -> None:
    written = f'{{name="7f3a9c1e · {name}",run="x-7f3a9c1e"}} 1700000000 1700000000000'
    assert offered(_variable(builder())["regex"], written) == (f"7f3a9c1e · {name}", "x-7f3a9c1e")


# What begins with a dollar would be taken for a variable by the stand-in for Grafana.
@pytest.mark.parametrize("name", [name for name in NASTY_NAMES if "$" not in name])
def test_what_tells_runs_apart_comes_first_and_the_name_stays_whole(name: str, tmp_path: Path) -> None:
    query, run = _named("x-7f3a9c1e", name)
    labels = f'{{name={_quoted(f"7f3a9c1e · {name}")}, run="x-7f3a9c1e"}}'
    returns(f"max by (name, run) ({query})", run, [{"labels": labels, "value": 1}], tmp_path)


@pytest.mark.parametrize(
    ("run", "first"),
    [
        ("grpo-on-gsm8k-7f3a9c1e", "7f3a9c1e"),
        ("my own", "my own"),
        ("sweep-20261127", "sweep-20261127"),
        ("7f3a9c1e", "7f3a9c1e"),
    ],
)
def test_ids_of_ones_own_stay_whole(run: str, first: str, tmp_path: Path) -> None:
    query, known = _named(run, "n")
    returns(f"max by (name) ({query})", known, [{"labels": f'{{name="{first} · n"}}', "value": 1}], tmp_path)


def test_long_names_of_rows_are_cut_at_their_end_and_ids_are_not(tmp_path: Path) -> None:
    _, known = _named("x-7f3a9c1e", "n" * 200)
    step: Series = {f'sparsity_monitor_run_step{{{_SCRAPED}, run="x-7f3a9c1e"}}': always(1)}
    of_run = metric("run_step", {"run": '="x-7f3a9c1e"'})
    query = f"max by (name, id) ({shown_in_rows(of_run)})"
    samples = [{"labels": f'{{name="{"n" * 29}…", id="7f3a9c1e"}}', "value": 1}]
    returns(query, {**known, **step}, samples, tmp_path)


def test_long_names_of_lines_are_cut_at_their_end(tmp_path: Path) -> None:
    """In a legend, Grafana makes all columns as wide as the widest, and what does not fit is hidden."""
    _, known = _named("x-7f3a9c1e", "n" * 200)
    step: Series = {f'sparsity_monitor_run_step{{{_SCRAPED}, run="x-7f3a9c1e"}}': always(1)}
    of_run = metric("run_step", {"run": '="x-7f3a9c1e"'})
    query = f"max by (name) ({shown(of_run)})"
    samples = [{"labels": f'{{name="7f3a9c1e · {"n" * 39}…"}}', "value": 1}]
    returns(query, {**known, **step}, samples, tmp_path)


@pytest.mark.parametrize("says_where_it_is", [True, False], ids=["this service", "an older service"])
def test_runs_know_where_their_service_is_if_it_says_so(says_where_it_is: bool, tmp_path: Path) -> None:
    service = _SERVICE if says_where_it_is else {}
    where = ', service_url="https://m.example"' if says_where_it_is else ""
    for query, name in ((shown(metric("run_weights")), "r · grpo"), (known_runs(), "grpo")):
        samples = [{"labels": f'{{run="r", name="{name}"{where}}}', "value": 1}]
        returns(f"group by (run, name, service_url) ({query})", service, samples, tmp_path)


def test_there_is_always_a_training_metric_to_choose(tmp_path: Path) -> None:
    """A panel that repeats for none is called "All"."""
    variable = _variable(variables.training_metric(SOME_RUNS))
    query = variable["query"].removeprefix("query_result(").removesuffix(")")
    returns(query, {}, [{"labels": '{metric="nothing logged"}', "value": 1}], tmp_path)
    labels = 'metric="a \\"b\\""'
    logged: Series = {f"sparsity_monitor_run_training_metric{{{RUN}, {labels}}}": always(3)}
    returns(query, logged, [{"labels": f"{{{labels}}}", "value": 1}], tmp_path)
    assert offered(variable["regex"], '{metric="a "b""} 1 1700000000000') == ('a "b"', 'a "b"')


def test_there_is_always_a_reference_to_repeat_for(tmp_path: Path) -> None:
    variable = _variable(variables.repeated_reference(SOME_RUNS))
    query = variable["query"].removeprefix("query_result(").removesuffix(")")
    returns(query, {}, [{"labels": '{reference="seed"}', "value": 1}], tmp_path)
    none = query.replace("run_reference_weights", "run_nothing")
    returns(none, {}, [{"labels": '{reference="no reference mask"}', "value": 1}], tmp_path)


def test_what_an_engine_serves_is_not_shown_as_a_training_metric(tmp_path: Path) -> None:
    """It has panels of its own, with names for people."""
    query = _variable(variables.training_metric(SOME_RUNS))["query"].removeprefix("query_result(").removesuffix(")")
    logged: Series = {
        f'sparsity_monitor_run_training_metric{{{RUN}, metric="{name}"}}': always(3)
        for name in (*NAMES, "served_groups_of_mine")
    }
    returns(query, logged, [{"labels": '{metric="served_groups_of_mine"}', "value": 1}], tmp_path)


def test_the_newest_run_is_offered_first() -> None:
    for variable in (_variable(variables.run()), _variable(variables.runs())):
        assert re.match(r"query_result\(sort_desc\(.*run_started_timestamp_seconds", variable["query"])
        assert variable["sort"] == 0
