"""Of a log that is too large for a service, what fits is reported, the most important metrics first."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from monitor.report.messages.trainer_log import TrainerLog


def test_a_log_that_fits_is_reported_whole_and_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    logs = {f"metric {number}": number for number in range(200)}
    assert TrainerLog().choose(logs) == logs
    assert caplog.messages == []


def test_of_too_many_metrics_the_important_ones_stay_then_the_first(caplog: pytest.LogCaptureFixture) -> None:
    logs = {f"metric {number}": number for number in range(300)}
    logs |= {"grad_norm": 1, "eval_loss": 2, "reward": 3, "loss": 4, "learning_rate": 5, "note": "text"}
    kept = TrainerLog().choose(logs)
    first = ["eval_loss", "loss", "reward", "learning_rate", "grad_norm"]
    assert list(kept) == [*first, *(f"metric {number}" for number in range(195))]
    (message,) = caplog.messages
    assert "105 of the 305 metrics" in message
    assert "a service takes at most 200 metrics in one log" in message
    assert "metric 195, metric 196, metric 197 and 102 more" in message
    assert "--max-training-metrics" in message
    assert "SPARSITY_MONITOR_MAX_TRAINING_METRICS" in message


@pytest.mark.parametrize("name", ["x" * 513, "reward/" + "é" * 600])
def test_a_name_that_is_too_long_is_left_out_alone(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert TrainerLog().choose({name: 1.0, "loss": 0.5}) == {"loss": 0.5}
    (message,) = caplog.messages
    assert "at most 512 characters in the name of a metric" in message
    assert len(message) < 500


def test_each_limit_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    log = TrainerLog()
    many = dict.fromkeys(map(str, range(201)), 1.0)
    for _ in range(3):
        log.choose(many)
        log.choose({"x" * 600: 1.0})
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


@pytest.mark.parametrize(("name", "sent"), [("a\udce9", "a\\udce9"), ("a\x00", "a\\x00"), (7, "7"), ("é\n", "é\n")])
def test_a_name_is_sent_as_text_that_can_be(name: object, sent: str) -> None:
    assert list(TrainerLog().choose({name: np.float32(1)})) == [sent]  # type: ignore[dict-item]


def test_a_service_with_other_limits_is_known_by_its_own_variables(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SPARSITY_MONITOR_MAX_TRAINING_METRICS", "2")
    assert list(TrainerLog().choose({"a": 1, "b": 2, "loss": 3})) == ["loss", "a"]
    monkeypatch.setenv("SPARSITY_MONITOR_MAX_TRAINING_METRICS", "1000")
    caplog.clear()
    assert len(TrainerLog().choose(dict.fromkeys(map(str, range(900)), 1.0))) == 900
    assert caplog.messages == []
