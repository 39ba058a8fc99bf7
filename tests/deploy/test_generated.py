"""What is written in deploy/ is what the code generates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitor.grafana.alerts.settings import AlertSettings
from monitor.grafana.files.generate import generated_files
from monitor.grafana.files.text import COMMAND

DEPLOY = Path(__file__).parents[2] / "deploy"
GENERATED = generated_files(AlertSettings())


@pytest.mark.parametrize("name", GENERATED)
def test_written_file_is_what_the_code_generates(name: str) -> None:
    assert (DEPLOY / name).read_text("utf-8") == GENERATED[name], f"run: {COMMAND}"


@pytest.mark.parametrize("name", GENERATED)
def test_generated_file_says_so(name: str) -> None:
    text = GENERATED[name]
    said = json.loads(text)["description"] if name.endswith(".json") else text.splitlines()[0]
    assert "Generated" in said


def test_nothing_is_left_over_from_what_was_generated_before() -> None:
    homes = ("grafana/dashboards", "prometheus/rules")
    there = {str(path.relative_to(DEPLOY)) for home in homes for path in (DEPLOY / home).iterdir()}
    assert there == {name for name in GENERATED if name.rpartition("/")[0] in homes}
