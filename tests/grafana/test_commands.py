from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.commands import grafana_commands
from monitor.grafana.dashboards import all_dashboards
from monitor.grafana.dashboards.board import opening_with
from tests.grafana.apply.stand_in import ADMIN, StandIn

NAMES = ("fleet", "run", "compare", "service-health")


def _run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(grafana_commands, list(arguments))
    return result.exit_code, result.output


def test_apply_says_what_it_does_and_what_it_would_do(grafana: StandIn) -> None:
    where = ("--url", grafana.url, "--token", ADMIN, "--prometheus-url", "http://prometheus:9090")
    code, output = _run("apply", *where, "--dry-run")
    assert code == 0
    assert "would create folder sparsity-monitor\n" in output
    assert grafana.writes == []
    code, output = _run("apply", *where)
    assert code == 0
    assert "create alert rule CumulativeSparsityCritical\n" in output
    grafana.rules["sm-run-lost"]["title"] = "Renamed"
    code, output = _run("apply", *where, "--dry-run")
    assert "would replace alert rule RunLost\n    title: Renamed → RunLost\n" in output
    code, output = _run("delete", *where[:4])
    assert code == 0
    assert "delete dashboard sparsity-monitor / Run\n" in output
    assert grafana.dashboards == {}


def test_programs_get_each_step_also_where_one_fails(grafana: StandIn) -> None:
    where = ("--url", grafana.url, "--prometheus-url", "http://prometheus:9090", "--json")
    code, output = _run("apply", *where, "--token", ADMIN)
    told = json.loads(output)
    assert (code, told["dry_run"]) == (0, False)
    assert {"action": "create", "title": "alert rule CumulativeSparsityCritical", "changes": []} in told["steps"]
    code, output = _run("delete", *where[:2], "--token", ADMIN, "--dry-run", "--json")
    assert {"action": "delete", "title": "alert rule CumulativeSparsityCritical", "changes": []} in json.loads(output)[
        "steps"
    ]
    code, output = _run("apply", *where, "--token", "wrong")
    # What is wrong goes to standard error, which is not told apart here.
    told, _ = json.JSONDecoder().raw_decode(output)
    assert (code, told["steps"]) == (1, [])


def test_what_goes_wrong_is_one_message(grafana: StandIn) -> None:
    code, output = _run("apply", "--url", grafana.url, "--token", "wrong")
    assert code == 1
    assert "token is wrong" in output
    assert "Traceback" not in output


def test_two_data_sources_are_one_too_many(grafana: StandIn) -> None:
    both = ("--prometheus-url", "http://p", "--datasource-uid", "p")
    code, output = _run("apply", "--url", grafana.url, "--token", ADMIN, *both)
    assert code == 1
    assert "expected one of them" in output


def test_thresholds_of_a_file_reach_grafana(grafana: StandIn, tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text("cumulative_sparsity_critical: 0.2\n")
    options = ("--prometheus-url", "http://p", "--alert-settings", str(tmp_path / "alerts.yaml"))
    code, _ = _run("apply", "--url", grafana.url, "--token", ADMIN, *options)
    assert code == 0
    assert "< 0.2" in grafana.rules["sm-cumulative-sparsity-critical"]["data"][0]["model"]["expr"]


@pytest.mark.parametrize("text", ["cumulative_sparsity: 0.2", "lift_chance: x", "- 1", "a: ["])
def test_settings_that_cannot_be_say_which_there_are(text: str, tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(text)
    code, output = _run("generate", str(tmp_path / "out"), "--alert-settings", str(tmp_path / "alerts.yaml"))
    assert code == 1
    assert "holds no alert settings" in output
    assert "cumulative_sparsity_warning" in output
    assert not (tmp_path / "out").exists()


def test_alerts_link_to_the_service_that_is_named(grafana: StandIn, tmp_path: Path) -> None:
    options = ("--prometheus-url", "http://p", "--service-url", "https://monitor.example/")
    code, _ = _run("apply", "--url", grafana.url, "--token", ADMIN, *options)
    assert code == 0
    link = "https://monitor.example/runbook#runlost"
    assert grafana.rules["sm-run-lost"]["annotations"]["runbook_url"] == link
    (tmp_path / "alerts.yaml").write_text("service_url: https://other.example\nhold_seconds: 60\n")
    settings = ("--alert-settings", str(tmp_path / "alerts.yaml"))
    for said, expected in (((), "other"), (("--service-url", "https://monitor.example"), "monitor")):
        assert _run("generate", str(tmp_path), *settings, *said)[0] == 0
        rules = (tmp_path / "prometheus/rules/sparsity-monitor.yml").read_text("utf-8")
        assert f"runbook_url: https://{expected}.example/runbook#runlost" in rules
        assert "for: 60s" in rules


@pytest.mark.parametrize("command", ["apply", "generate"])
def test_a_service_url_that_no_browser_could_follow_is_refused(command: str, grafana: StandIn, tmp_path: Path) -> None:
    where = ("--url", grafana.url, "--token", ADMIN) if command == "apply" else (str(tmp_path / "out"),)
    code, output = _run(command, *where, "--service-url", "monitor.example")
    assert code == 1
    assert "'monitor.example' was given; expected where browsers find the service" in output
    assert grafana.writes == []
    assert not (tmp_path / "out").exists()


def test_generate_names_the_files_that_it_changed(tmp_path: Path) -> None:
    code, output = _run("generate", str(tmp_path))
    assert code == 0
    assert str(tmp_path / "runbook.md") in output
    assert _run("generate", str(tmp_path)) == (0, "")
    (tmp_path / "runbook.md").unlink()
    code, output = _run("generate", str(tmp_path), "--json")
    assert (code, json.loads(output)) == (0, {"changed": [str(tmp_path / "runbook.md")]})


def test_dashboards_for_grafana_com_ask_for_their_data_source(tmp_path: Path) -> None:
    assert _run("generate", str(tmp_path), "--for-grafana-com")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.json" for name in NAMES}
    for name, plain in all_dashboards(AlertSettings()).items():
        shared = json.loads((tmp_path / name).read_text("utf-8"))
        (asked,) = shared.pop("__inputs")
        assert (asked["type"], asked["pluginId"]) == ("datasource", "prometheus")
        needs = {(each["type"], each["id"]) for each in shared.pop("__requires")}
        panels = {("panel", panel["type"]) for panel in plain["panels"]} - {("panel", "row")}
        assert needs == {("grafana", "grafana"), ("datasource", "prometheus"), *panels}
        # What the import does, in all texts alike.
        imported = json.loads(json.dumps(shared).replace(f"${{{asked['name']}}}", "chosen"))
        assert (imported.pop("__elements"), imported.pop("id")) == ({}, None)
        assert imported == opening_with("chosen", plain)


def test_without_its_libraries_it_says_how_to_get_them() -> None:
    without = (
        "import sys; sys.modules['grafana_foundation_sdk'] = None; sys.argv = ['sparsity-monitor', 'grafana', "
        "'generate']; "
        "from monitor.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'pip install "sparsity-monitor[grafana]"' in done.stderr
    assert "Traceback" not in done.stderr
