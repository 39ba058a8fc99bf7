"""What both UpdateObserver and SparsityCallback take is explained, and has its default, in one place."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

from monitor import SparsityCallback, UpdateObserver
from monitor.observe.settings import MeasurementSettings


def _explained(doc: str) -> dict[str, str]:
    """The arguments of a docstring with their explanations, in one line each."""
    arguments = re.split(r"\n\n(?=\S)", inspect.cleandoc(doc).split("Args:\n")[1])[0]
    found = re.findall(r"^    ([\w, ]+): (.+(?:\n {8}.+)*)", arguments, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in found for name in names.split(", ")}


def test_every_argument_of_an_observer_is_explained() -> None:
    assert UpdateObserver.__doc__ is not None
    assert set(_explained(UpdateObserver.__doc__)) == set(inspect.signature(UpdateObserver).parameters)


def test_a_setting_that_both_take_has_one_explanation_and_one_default() -> None:
    of_observer, of_callback = (inspect.signature(each).parameters for each in (UpdateObserver, SparsityCallback))
    assert UpdateObserver.__doc__ is not None
    assert SparsityCallback.__init__.__doc__ is not None
    docs = [_explained(UpdateObserver.__doc__), _explained(SparsityCallback.__init__.__doc__)]
    for setting in fields(MeasurementSettings):
        assert setting.default == of_observer[setting.name].default == of_callback[setting.name].default
        assert [doc[setting.name] for doc in docs] == [setting.metadata["description"]] * 2
