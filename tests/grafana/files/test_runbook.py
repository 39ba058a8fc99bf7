from __future__ import annotations

import re

import pytest

from monitor.grafana.alerts.alert import Alert
from monitor.grafana.alerts.catalogue import all_alerts, texts
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.files.runbook import runbook

SETTINGS = AlertSettings()
RUNBOOK = runbook(SETTINGS)
CHAPTERS = {heading.lower(): text for heading, text in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.M | re.S)}


@pytest.mark.parametrize("alert", all_alerts(SETTINGS), ids=lambda alert: alert.name)
def test_address_in_the_alert_leads_to_a_chapter_that_says_what_to_do(alert: Alert) -> None:
    address, _, anchor = texts(alert, SETTINGS)["runbook_url"].partition("#")
    assert address == "deploy/runbook.md"
    chapter = CHAPTERS[anchor]
    assert alert.meaning in chapter
    assert re.search(r"^2\. ", chapter, re.M), "more than one thing to do"


def test_address_can_be_that_of_a_published_runbook() -> None:
    elsewhere = AlertSettings(runbook_url="https://wiki.example/runbook")
    (first, *_) = all_alerts(elsewhere)
    assert texts(first, elsewhere)["runbook_url"] == "https://wiki.example/runbook#nonfiniteweights"


@pytest.mark.parametrize("name", AlertSettings.model_fields)
def test_every_threshold_is_there_with_its_value_and_reason(name: str) -> None:
    field = AlertSettings.model_fields[name]
    assert f"| `{name}` | {getattr(SETTINGS, name)} | {field.description} |" in RUNBOOK
