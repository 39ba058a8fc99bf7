from __future__ import annotations

import re

import pytest

from monitor.grafana.alerts.alert import Alert
from monitor.grafana.alerts.catalogue import all_alerts, texts
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.files.generate import generated_files
from monitor.grafana.files.runbook import runbook

SETTINGS = AlertSettings()
RUNBOOK = runbook(SETTINGS)
CHAPTERS = {heading.lower(): text for heading, text in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.M | re.S)}


@pytest.mark.parametrize("alert", all_alerts(SETTINGS), ids=lambda alert: alert.name)
def test_address_in_the_alert_leads_to_a_chapter_that_says_what_to_do(alert: Alert) -> None:
    address, _, anchor = texts(alert, SETTINGS)["runbook_url"].partition("#")
    assert address == "http://127.0.0.1:8765/runbook"
    chapter = CHAPTERS[anchor]
    assert alert.meaning in chapter
    assert re.search(r"^2\. ", chapter, re.M), "more than one thing to do"


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({"service_url": "https://monitor.example/sparsity/"}, "https://monitor.example/sparsity/runbook"),
        ({"runbook_url": "https://wiki.example/runbook"}, "https://wiki.example/runbook"),
        ({"service_url": "https://s.example", "runbook_url": "https://w.example/r"}, "https://w.example/r"),
    ],
)
def test_address_is_on_the_page_of_the_service_or_where_the_runbook_was_published(
    settings: dict[str, str], address: str
) -> None:
    elsewhere = AlertSettings.model_validate(settings)
    (first, *_) = all_alerts(elsewhere)
    assert texts(first, elsewhere)["runbook_url"] == f"{address}#nonfiniteweights"


def test_every_written_link_to_the_runbook_is_absolute_and_follows_the_setting() -> None:
    """In the rules for Prometheus, their copy for Kubernetes, and what Grafana provisions."""
    written = generated_files(AlertSettings(service_url="https://monitor.example"))
    links = {name: re.findall(r"runbook_url: (\S+)", text) for name, text in written.items()}
    expected = [f"https://monitor.example/runbook#{alert.name.lower()}" for alert in all_alerts(SETTINGS)]
    assert {name: found for name, found in links.items() if found} == dict.fromkeys(
        (
            "prometheus/rules/sparsity-monitor.yml",
            "grafana/provisioning/alerting/rules.yaml",
            "kubernetes/prometheus-rule.yaml",
        ),
        expected,
    )


@pytest.mark.parametrize("name", AlertSettings.model_fields)
def test_every_threshold_is_there_with_its_value_and_reason(name: str) -> None:
    field = AlertSettings.model_fields[name]
    assert f"| `{name}` | {getattr(SETTINGS, name)} | {field.description} |" in RUNBOOK
