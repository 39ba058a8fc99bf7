"""What is handed to an observer and is of another kind is answered by a sentence: what was given, what was expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monitor.errors import ConfigurationError
from monitor.observe.masks.file import MaskFile
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.observer import UpdateObserver


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("Qwen/Qwen2.5-0.5B", {}, "model is 'Qwen/Qwen2.5-0.5B'; expected the torch.nn.Module that trains"),
        (None, {}, "model is None"),
        (Unspeakable(), {}, "model is a Unspeakable whose repr fails"),
        (nn.Linear(1, 1).state_dict(), {}, "model is OrderedDict"),
        (nn.Linear(1, 1), {"base": "Qwen/Qwen2.5-0.5B"}, "base is 'Qwen/Qwen2.5-0.5B'; expected a frozen"),
        (nn.Linear(1, 1), {"references": ["a"]}, r"references is \['a'\]; expected {name: UpdateMask"),
        (
            nn.Linear(1, 1),
            {"references": {"a": "mask.safetensors"}},
            r"references\['a'\] is .*; expected an UpdateMask",
        ),
        (nn.Linear(1, 1), {"references": {"low": "lowest:0"}}, "the structural mask 'lowest:0' has the share '0'"),
        (nn.Linear(1, 1), {"references": {7: nn.Linear(1, 1)}}, "references has the name 7"),
        (nn.Linear(1, 1), {"criterion": 5}, "criterion is 5; expected"),
        (nn.Linear(1, 1), {"tolerances": "1e-5"}, r"tolerances is '1e-5'; expected a list of numbers"),
        (nn.Linear(1, 1), {"tolerances": 1e-5}, r"tolerances is 1e-05; expected a list of numbers"),
        (nn.Linear(1, 1), {"tolerances": [None]}, "a tolerance is None; expected a finite number"),
        (nn.Linear(1, 1), {"visible_dtype": ["bfloat16"]}, r"visible_dtype is \['bfloat16'\]; expected one of"),
        (nn.Linear(1, 1), {"include": "weight"}, r"include is the string 'weight'; expected a list .*\['weight'\]"),
        (nn.Linear(1, 1), {"exclude": 5}, "exclude is 5; expected a list of regular expressions"),
        (nn.Linear(1, 1), {"include": [5]}, "include has 5; expected regular expressions as text"),
        (nn.Linear(1, 1), {"base_mode": ["device"]}, r"base_mode is \['device'\]; expected one of"),
        (nn.Linear(1, 1), {"first_step": "3"}, "first_step is '3'; expected a whole number"),
        (nn.Linear(1, 1), {"first_step": -1}, "first_step is -1"),
    ],
)
def test_what_an_observer_cannot_be_made_from(model: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        UpdateObserver(model, **settings)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("step", ["12", 1.5, 1.0, None, True, [1], -1, 2**63, torch.tensor(1.5)])
def test_a_step_that_is_no_step_is_named_and_changes_nothing(step: Any) -> None:
    observer = UpdateObserver(nn.Linear(1, 1))
    with pytest.raises(ConfigurationError, match=r"step is .*; expected a whole number of optimizer steps"):
        observer.observe(step)
    assert observer.observe(1).step == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda observer: observer.follow("model"), "model is 'model'; expected the torch.nn.Module"),
        (lambda observer: observer.save_touched(5), "directory is 5; expected a path"),
        (lambda observer: observer.restore("checkpoint-4"), "directories is 'checkpoint-4'; expected a list of paths"),
        (lambda observer: observer.restore([None]), "one of directories is None; expected a path"),
        (lambda observer: observer.update_mask().overlap("mask"), "the other mask is 'mask'; expected an UpdateMask"),
        (lambda observer: observer.update_mask().save(5), "the path of a mask is 5; expected a path"),
        (lambda observer: UpdateMask.load(None), "the path of a mask is None"),
        (lambda observer: MaskFile(5), "the path of a mask is 5"),
        (lambda observer: UpdateMask.from_bools([1]), r"bools is \[1\]; expected {parameter name: boolean tensor}"),
    ],
)
def test_what_a_method_cannot_take(call: Callable[[UpdateObserver], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        call(UpdateObserver(nn.Linear(1, 1)))


def test_a_reference_mask_that_was_not_given_is_named_with_those_that_were() -> None:
    model = nn.Linear(1, 1)
    mask = UpdateObserver(model).update_mask()
    observation = UpdateObserver(model, references={"seed 1": mask}).observe(1)
    with pytest.raises(KeyError, match="no reference mask 'seed 2' was given; of this observation there are: 'seed 1'"):
        observation.overlap("seed 2")


def test_a_directory_may_be_text(tmp_path: Path) -> None:
    observer = UpdateObserver(nn.Linear(1, 1))
    observer.save_touched(str(tmp_path / "touched"))
    assert observer.restore([str(tmp_path / "touched")])


@pytest.mark.parametrize("step", [3, 2])
def test_a_step_that_goes_back_is_named_with_what_to_do(step: int) -> None:
    observer = UpdateObserver(nn.Linear(1, 1), first_step=1)
    observer.observe(3)
    with pytest.raises(ConfigurationError, match=f"step is {step}, and the previous observation was at 3.*Count on"):
        observer.observe(step)


@pytest.mark.parametrize("step", [np.int64(4), np.uint8(4), torch.tensor(4)])
def test_a_whole_number_of_another_library_is_a_step(step: Any) -> None:
    observation = UpdateObserver(nn.Linear(1, 1)).observe(step)
    assert observation.step == 4
    assert type(observation.step) is int
