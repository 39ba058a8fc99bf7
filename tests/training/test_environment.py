"""Settings from environment variables: what they are written as, that arguments win, and what is said of wrong ones."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest

from monitor import DenseThresholds, SparsityCallback
from monitor.environment import variable
from monitor.errors import ConfigurationError
from monitor.training.settings import RunSettings

TABLE = Path(__file__).parents[2] / "monitor" / "training" / "ENVIRONMENT.md"


@pytest.fixture(autouse=True)
def _without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SPARSITY_MONITOR_")]:
        monkeypatch.delenv(name)


# Setting → (text, what it stands for), for every setting: one without an entry here has not been thought of.
FORMS: dict[str, list[tuple[str, Any]]] = {
    "target": [("localhost:1", "localhost:1"), ("none", None)],
    "run_name": [("a run", "a run"), ("7", "7"), ("none", "none")],
    "labels": [
        ("algorithm=GRPO, seed=0", {"algorithm": "GRPO", "seed": "0"}),
        ('{"note": "a, b=c", "seed": 0}', {"note": "a, b=c", "seed": "0"}),
        ("formula=a=b", {"formula": "a=b"}),
    ],
    "base": [("org/model", "org/model")],
    "references": [
        ("seed 1=/runs/1.safetensors", {"seed 1": "/runs/1.safetensors"}),
        ('{"a": "b.safetensors"}', {"a": "b.safetensors"}),
    ],
    "criterion": [("atol=1e-5", "atol=1e-05")],
    "tolerances": [("1e-5, 1e-4", (1e-5, 1e-4)), ("[1e-5]", (1e-5,)), ("0.5", (0.5,))],
    "visible_dtype": [("float16", "float16")],
    "every": [("10", 10)],
    "max_overhead": [("0.01", 0.01)],
    "base_mode": [("host", "host")],
    "include": [("self_attn", ("self_attn",)), ('["a,b", "c"]', ("a,b", "c")), ("[ab]{1,2}", ("[ab]{1,2}",))],
    "exclude": [("bias$", ("bias$",))],
    "step_masks": [("false", False), ("1", True)],
    "save_mask": [("0", False)],
    "strict": [("yes", True)],
    "quiet": [("true", True)],
    "run_id": [("run-7", "run-7")],
    "directory": [("/scratch/run", "/scratch/run")],
    "spool_max_bytes": [("2097152", 2097152)],
    "on_dense": [("stop", "stop"), ("none", None), ("None", None)],
    "dense_thresholds": [
        ("cumulative=0.5,warmup_steps=100", DenseThresholds(cumulative=0.5, warmup_steps=100)),
        ('{"step": 0.5}', DenseThresholds(step=0.5)),
    ],
}


@pytest.fixture(autouse=True)
def _without_mask_files(monkeypatch: pytest.MonkeyPatch) -> None:
    # The files of the references are opened at construction, and these do not exist.
    monkeypatch.setattr("monitor.callback.open_references", dict)


@pytest.mark.parametrize("setting", RunSettings.__pydantic_fields__)  # type: ignore[attr-defined]
def test_every_setting_can_be_a_variable(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, meant in FORMS[setting]:
        monkeypatch.setenv(variable(setting), text)
        arguments = () if setting == "target" else (None,)
        assert getattr(SparsityCallback(*arguments).settings, setting) == meant


def test_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSITY_MONITOR_TARGET", "elsewhere:1")
    monkeypatch.setenv("SPARSITY_MONITOR_LABELS", "seed=0,algorithm=GRPO")
    monkeypatch.setenv("SPARSITY_MONITOR_EVERY", "this is not even a number")
    settings = SparsityCallback(None, labels={"seed": "1"}, every=3).settings
    assert (settings.target, settings.labels, settings.every) == (None, {"seed": "1"}, 3)


def test_without_a_target_the_variable_is_asked_for() -> None:
    with pytest.raises(ConfigurationError, match=r"no target is given.*SPARSITY_MONITOR_TARGET"):
        SparsityCallback()


def test_a_variable_that_is_empty_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSITY_MONITOR_TARGET", "localhost:1")
    monkeypatch.setenv("SPARSITY_MONITOR_EVERY", "")
    monkeypatch.setenv("SPARSITY_MONITOR_LABELS", " ")
    settings = SparsityCallback().settings
    assert (settings.every, settings.labels) == (1, None)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("target", "localhost"),
        ("labels", "GRPO"),
        ("labels", "=GRPO"),
        ("labels", '{"a": '),
        ("labels", ",".join(f"k{number}=v" for number in range(33))),
        ("references", "mask.safetensors"),
        ("criterion", "all"),
        ("tolerances", "small"),
        ("tolerances", "[1e-5"),
        ("tolerances", "-1"),
        ("visible_dtype", "int8"),
        ("every", "ten"),
        ("every", "0"),
        ("max_overhead", "1 %"),
        ("base_mode", "gpu"),
        ("include", "("),
        ("exclude", '["a", 5]'),
        ("strict", "perhaps"),
        ("run_id", "a/b"),
        ("spool_max_bytes", "1GB"),
        ("on_dense", "halt"),
        ("dense_thresholds", "cumulative=much"),
        ("dense_thresholds", "cumulative=2"),
        ("dense_thresholds", "cumulativ=0.5"),
        ("dense_thresholds", "0.5"),
    ],
)
def test_a_wrong_value_is_answered_with_the_name_of_its_variable(
    setting: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable(setting), text)
    arguments = () if setting == "target" else (None,)
    with pytest.raises(ConfigurationError, match=variable(setting)):
        SparsityCallback(*arguments)


def test_a_misspelt_variable_is_named_with_the_right_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SPARSITY_MONITOR_RUN_NAMES", "a run")
    monkeypatch.setenv("SPARSITY_MONITOR_SERVICE", "localhost:1")
    # Of the service, which may run on the same machine.
    monkeypatch.setenv("SPARSITY_MONITOR_STORE_URL", "sqlite:///x.db")
    monkeypatch.setenv("SPARSITY_MONITOR_MAX_GROUPS", "30000")
    SparsityCallback(None)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    first, second = caplog.messages
    assert "SPARSITY_MONITOR_RUN_NAMES is not known" in first
    assert "Did you mean SPARSITY_MONITOR_RUN_NAME?" in first
    assert "SPARSITY_MONITOR_SERVICE is not known" in second


@pytest.mark.parametrize(("rank", "warnings"), [("0", 1), ("1", 0), ("7", 0)])
def test_of_several_processes_one_warns(
    rank: str, warnings: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("SPARSITY_MONITOR_TAGET", "localhost:1")
    SparsityCallback(None)
    assert len(caplog.records) == warnings


def test_the_table_has_every_setting_and_no_other() -> None:
    named = re.findall(
        r"`(?:SPARSITY_MONITOR)?_([A-Z_]+)`",
        "".join(line.split("|")[1] for line in TABLE.read_text().splitlines() if line.startswith("| `")),
    )
    assert sorted(name.lower() for name in named) == sorted(FORMS)
