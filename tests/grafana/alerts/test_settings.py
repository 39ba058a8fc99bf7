from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from monitor.errors import ConfigurationError
from monitor.grafana.alerts.settings import AlertSettings
from monitor.published import RL_CUMULATIVE, SFT_CUMULATIVE
from monitor.verdict import INERT_HIDDEN_FACTOR, DenseThresholds


def test_thresholds_lie_where_published_runs_say() -> None:
    settings = AlertSettings()
    # Below every RL run, above every fine-tuning; and the warning inside of what RL runs show.
    assert SFT_CUMULATIVE.high < settings.cumulative_sparsity_critical < RL_CUMULATIVE.low
    assert RL_CUMULATIVE.low < settings.cumulative_sparsity_warning < RL_CUMULATIVE.high


def test_alert_and_callback_call_the_same_thing_dense() -> None:
    assert AlertSettings().cumulative_sparsity_critical == DenseThresholds().cumulative
    assert AlertSettings().warmup_steps == DenseThresholds().warmup_steps


def test_alert_and_callback_call_the_same_thing_inert() -> None:
    assert AlertSettings().inert_hidden_factor == INERT_HIDDEN_FACTOR


@pytest.mark.parametrize("setting", [{"cumulative_sparsity_warning": 70}, {"outlier_factor": 1}, {"typo": 1}])
def test_value_that_cannot_work_is_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        AlertSettings(**setting)


def test_critical_above_the_warning_is_refused(tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text("cumulative_sparsity_warning: 0.3\n")
    with pytest.raises(ConfigurationError, match=r"critical is 0\.35; expected at most .*_warning, which is 0\.3"):
        AlertSettings.read(tmp_path / "alerts.yaml")


def test_file_holds_only_what_differs(tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text("warmup_steps: 50\n")
    assert AlertSettings.read(tmp_path / "alerts.yaml") == AlertSettings(warmup_steps=50)
    (tmp_path / "empty.yaml").write_text("")
    assert AlertSettings.read(tmp_path / "empty.yaml") == AlertSettings.read(None) == AlertSettings()
