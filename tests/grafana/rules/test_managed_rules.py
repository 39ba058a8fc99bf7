"""Grafana-managed rules, in the form that Grafana's documentation of file and API provisioning asks for."""

from __future__ import annotations

from typing import Any

import pytest

from monitor.grafana.addresses import DATASOURCE_UID
from monitor.grafana.alerts.catalogue import all_alerts
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.apply.difference import seconds
from monitor.grafana.dashboards import all_dashboards
from monitor.grafana.files.provisioning import alert_rules, contact_points, dashboard_provider
from monitor.grafana.rules.managed_rules import managed_rules

SETTINGS = AlertSettings()
RULES = managed_rules(SETTINGS)
ALERTS = {alert.name: alert for alert in all_alerts(SETTINGS)}


def test_every_alert_is_there_under_a_uid_of_its_own() -> None:
    assert [rule["title"] for rule in RULES] == list(ALERTS)
    uids = {rule["uid"] for rule in RULES}
    assert len(uids) == len(RULES)
    assert all(len(uid) <= 40 for uid in uids)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["title"])
def test_query_then_last_value_then_condition(rule: dict[str, Any]) -> None:
    query, reduced, condition = rule["data"]
    assert [each["refId"] for each in rule["data"]] == ["A", "B", "C"]
    assert all(each["model"]["refId"] == each["refId"] for each in rule["data"])
    assert rule["condition"] == "C"
    assert query["datasourceUid"] == DATASOURCE_UID
    assert query["model"]["instant"] is True
    assert (reduced["model"]["type"], reduced["model"]["expression"]) == ("reduce", "A")
    assert condition["model"]["type"] == "math"
    assert {reduced["datasourceUid"], condition["datasourceUid"]} == {"__expr__"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["title"])
def test_query_needs_no_recording_rules(rule: dict[str, Any]) -> None:
    assert ":sparsity_monitor" not in rule["data"][0]["model"]["expr"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["title"])
def test_same_times_labels_and_texts_as_in_prometheus(rule: dict[str, Any]) -> None:
    alert = ALERTS[rule["title"]]
    assert seconds(rule["for"]) == alert.hold_seconds
    assert rule["labels"] == {"service": "sparsity-monitor", "severity": alert.severity}
    assert rule["annotations"]["summary"] == alert.summary
    # The number of the reduced query; Grafana's own .Value is a text about all of them.
    assert rule["annotations"]["description"].replace(".Values.B.Value", ".Value") == alert.description
    assert " .Value " not in rule["annotations"]["description"]


def test_no_data_is_no_alert_and_failing_is_no_alert_about_a_run() -> None:
    assert {(rule["noDataState"], rule["execErrState"]) for rule in RULES} == {("OK", "Error")}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["title"])
def test_alert_belongs_to_a_panel_with_a_graph_or_a_number(rule: dict[str, Any]) -> None:
    boards = {board["uid"]: board for board in all_dashboards(SETTINGS).values()}
    board = boards[rule["annotations"]["__dashboardUid__"]]
    (panel,) = [each for each in board["panels"] if str(each["id"]) == rule["annotations"]["__panelId__"]]
    assert panel["title"] == ALERTS[rule["title"]].panel[1]
    assert panel["type"] in ("timeseries", "stat", "state-timeline")


def test_file_says_the_panel_in_fields_of_its_own() -> None:
    (group,) = alert_rules(SETTINGS)["groups"]
    for rule in group["rules"]:
        assert rule["dashboardUid"] == rule["annotations"]["__dashboardUid__"]
        assert str(rule["panelId"]) == rule["annotations"]["__panelId__"]


def test_files_make_each_folder_once() -> None:
    (group,) = alert_rules(SETTINGS)["groups"]
    (provider,) = dashboard_provider()["providers"]
    assert group["folder"] != provider["folder"]


def test_contact_point_takes_its_address_from_the_environment() -> None:
    (point,) = contact_points()["contactPoints"]
    (receiver,) = point["receivers"]
    assert receiver["settings"]["url"] == "${ALERT_WEBHOOK_URL}"
    (policy,) = contact_points()["policies"]
    assert policy["receiver"] == point["name"]
