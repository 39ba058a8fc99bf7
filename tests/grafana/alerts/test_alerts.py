"""Each alert against promtool: it fires, with its texts; and it stays silent where it should."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.grafana.alerts.catalogue import SERVICE, all_alerts, texts
from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.rules.managed_rules import managed_rules
from monitor.grafana.rules.prometheus_rules import prometheus_rules
from tests.grafana.alerts.rule_cases import CASES, HEALTHY, IDENTITY, Case, Series
from tests.grafana.binaries import binary, check

SETTINGS = AlertSettings()
NAMES = [alert.name for alert in all_alerts(SETTINGS)]


def _written_out() -> dict[str, Any]:
    """The Grafana-managed rules as Prometheus can evaluate them: their queries and times, without the form."""
    rules = [
        {
            "alert": rule["title"],
            "expr": rule["data"][0]["model"]["expr"],
            **({"for": rule["for"]} if rule["for"] != "0s" else {}),
            "labels": rule["labels"],
            "annotations": {
                name: text.replace(".Values.B.Value ", ".Value ")
                for name, text in rule["annotations"].items()
                if not name.startswith("__")
            },
        }
        for rule in managed_rules(SETTINGS)
    ]
    return {"groups": [{"name": "managed", "rules": rules}]}


RULES = {"prometheus": prometheus_rules(SETTINGS), "grafana": _written_out()}


def _test(case: Case, changes: Series, *, fires: bool, name: str) -> dict[str, Any]:
    expected = {
        "exp_labels": {**case.labels, "severity": case.severity, "service": SERVICE},
        "exp_annotations": {
            "summary": case.summary,
            "description": case.description,
            "runbook_url": f"http://127.0.0.1:8765/runbook#{case.alert.lower()}",
        },
    }
    return {
        "name": f"{case.alert}: {name}",
        "interval": "1m",
        "input_series": [{"series": key, "values": value} for key, value in {**HEALTHY, **changes}.items()],
        "alert_rule_test": [
            {
                "eval_time": f"{case.minute}m",
                "alertname": case.alert,
                "exp_alerts": [expected] if fires else [],
            }
        ],
    }


def _about(alert: str, rules: dict[str, Any]) -> dict[str, Any]:
    """The rules that one alert needs: evaluating all of them at each minute takes a while."""
    flat = [rule for group in rules["groups"] for rule in group["rules"]]
    rule = next(each for each in flat if each.get("alert") == alert)
    recorded = [each for each in flat if "record" in each and each["record"] in rule["expr"]]
    return {"groups": [{"name": "one", "rules": [*recorded, rule]}]}


def _promtool(directory: Path, rules: dict[str, Any], tests: list[dict[str, Any]]) -> None:
    promtool = binary("promtool")
    (directory / "rules.yml").write_text(yaml.safe_dump(rules))
    unit_tests = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (directory / "tests.yml").write_text(yaml.safe_dump(unit_tests))
    check(promtool, "test", "rules", directory / "tests.yml")


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_fires_with_its_texts_and_stays_silent_where_it_should(case: Case, kind: str, tmp_path: Path) -> None:
    tests = [_test(case, case.fires, fires=True, name="fires")]
    tests += [_test(case, changes, fires=False, name=name) for name, changes in case.silent.items()]
    tests.append(_test(case, {}, fires=False, name="healthy"))
    _promtool(tmp_path, _about(case.alert, RULES[kind]), tests)


def test_every_alert_has_a_case() -> None:
    assert list(dict.fromkeys(case.alert for case in CASES)) == NAMES


def test_service_that_was_never_scraped_is_down(tmp_path: Path) -> None:
    down = next(case for case in CASES if case.alert == "ServiceDown")
    labels = {"job": IDENTITY["job"], "severity": down.severity, "service": SERVICE}
    test = _test(down, {}, fires=True, name="absent")
    test["input_series"] = []
    test["alert_rule_test"][0]["exp_alerts"][0]["exp_labels"] = labels
    _promtool(tmp_path, RULES["prometheus"], [test])


@pytest.mark.parametrize("alert", all_alerts(SETTINGS), ids=lambda alert: alert.name)
def test_texts_hold_nothing_that_grafana_would_interpolate(alert: Any) -> None:
    written = texts(alert, SETTINGS)
    assert set(written) == {"summary", "description", "runbook_url"}
    assert all(written.values())
    assert "$" not in "".join(written.values())


def test_no_sparsity_without_its_kind() -> None:
    for alert in all_alerts(SETTINGS):
        text = " ".join((alert.summary, alert.description, alert.meaning))
        for match in re.finditer(r"sparsity(?!-monitor)", text, re.IGNORECASE):
            assert re.search(r"(cumulative|step) $", text[: match.start()], re.IGNORECASE), text
