"""The environment variables of both ends: one prefix, and names that do not meet."""

from __future__ import annotations

from dataclasses import fields

import pytest

from monitor.environment import SERVICE_ALONE, misspelt
from monitor.errors import ConfigurationError
from monitor.limits import Limits
from monitor.service.settings import ServiceSettings
from monitor.training.settings import RunSettings


def test_all_variables_of_the_service_are_known_to_a_training() -> None:
    limits = {field.name for field in fields(Limits)}
    assert {*SERVICE_ALONE, *limits} == set(ServiceSettings.model_fields)


def test_no_variable_means_one_thing_here_and_another_there() -> None:
    assert not set(ServiceSettings.model_fields) & {field.name for field in fields(RunSettings)}  # type: ignore[arg-type]


def test_the_defaults_of_the_service_are_what_a_training_keeps_to() -> None:
    defaults = ServiceSettings()
    assert {field.name: getattr(defaults, field.name) for field in fields(Limits)} == vars(Limits())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SPARSITY_MONITOR_TAGET", "SPARSITY_MONITOR_TARGET"),
        ("SPARSITY_MONITOR_LABEL", "SPARSITY_MONITOR_LABELS"),
        ("SPARSITY_MONITOR_RUNNAME", "SPARSITY_MONITOR_RUN_NAME"),
        ("SPARSITY_MONITOR_COLOUR_OF_PAGES", None),
    ],
)
def test_a_misspelt_variable_is_found_with_what_it_may_mean(name: str, meant: str | None) -> None:
    settings = ["target", "labels", "run_name", "every"]
    others = {"SPARSITY_MONITOR_STORE_URL": "x", "SPARSITY_MONITOR_EVERY": "1", "HOME": "/", "WANDB_TAGET": "x"}
    assert misspelt({name: "x", **others}, settings) == {name: meant}


@pytest.mark.parametrize("text", ["many", "-1", "1.5", "²"])
def test_a_limit_that_is_no_number_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSITY_MONITOR_MAX_GROUPS", text)
    with pytest.raises(ConfigurationError, match=r"^SPARSITY_MONITOR_MAX_GROUPS is "):
        Limits.in_force()
