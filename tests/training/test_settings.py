"""Each setting is declared once, and is an argument of SparsityCallback with its default and its explanation."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from monitor import SparsityCallback
from monitor.training.settings import RunSettings

# As 0.1.0 has them, but for the target, which had to be given, and `quiet`: what a script passes must go on meaning the
# same.
RELEASED = {
    "target": "",
    "run_name": None,
    "labels": None,
    "base": None,
    "references": None,
    "criterion": "bits",
    "tolerances": (),
    "visible_dtype": "bfloat16",
    "every": 1,
    "max_overhead": None,
    "base_mode": "auto",
    "include": None,
    "exclude": None,
    "step_masks": True,
    "save_mask": True,
    "strict": False,
    "quiet": False,
    "run_id": None,
    "directory": None,
    "spool_max_bytes": 512 * 1024 * 1024,
    "on_dense": "warn",
    "dense_thresholds": None,
}


def test_the_arguments_are_the_released_ones() -> None:
    parameters = inspect.signature(SparsityCallback).parameters.values()
    assert {p.name: p.default for p in parameters} == RELEASED
    positional = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert positional == ["target", "run_name"]


def test_the_defaults_that_are_shown_are_those_that_hold() -> None:
    shown = inspect.signature(SparsityCallback).parameters
    held = SparsityCallback(None).settings
    assert {name: getattr(held, name) for name in shown if name != "target"} == {
        name: parameter.default for name, parameter in shown.items() if name != "target"
    }


def test_every_setting_is_explained_in_the_docstring_of_the_constructor() -> None:
    doc = inspect.getdoc(SparsityCallback.__init__)
    assert doc is not None
    _, arguments = doc.split("Args:\n")
    explained = dict(re.findall(r"^    (\w+): (.+)$", arguments, flags=re.MULTILINE))
    assert list(explained) == list(inspect.signature(SparsityCallback).parameters)
    assert explained["every"] == "Optimizer steps between observations. The last step is always observed."
    assert all(len(explanation) > 20 and explanation != "None" for explanation in explained.values())


def test_a_setting_that_is_unknown_is_named() -> None:
    with pytest.raises(TypeError, match=r"^SparsityCallback\(\) got an unexpected keyword argument 'evry'$"):
        SparsityCallback(None, evry=2)
    with pytest.raises(TypeError, match=r"^SparsityCallback\(\) too many positional arguments$"):
        SparsityCallback(None, "name", {"algorithm": "GRPO"})


def test_what_is_given_is_kept_as_it_was() -> None:
    labels, tolerances, references = {"seed": 0}, [1e-5], {}
    settings = SparsityCallback(None, labels=labels, tolerances=tolerances, references=references).settings
    labels["seed"] = 1
    tolerances.append(1e-4)
    references["earlier"] = Path("nowhere")
    assert (settings.labels, settings.tolerances, settings.references) == ({"seed": "0"}, (1e-5,), {})


def test_settings_are_shown_without_the_weights_that_were_given() -> None:
    shown = repr(RunSettings(None, base={"weight": object()}, references={"earlier": Path("mask.safetensors")}))
    assert "every=1" in shown
    assert "base=" not in shown
    assert "references=" not in shown
