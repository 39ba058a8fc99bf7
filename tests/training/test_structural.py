"""Structural reference masks in a training: made of its base, the same after a resume, and without a trace in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monitor import SparsityCallback, UpdateMask
from tests.matrix.runs import Run, assert_same_training, train
from tests.observe.masks.ordered import structural_bools
from tests.tiny import common_arguments, plain_trainer, save_model

REFERENCES = {"low magnitude": "lowest:0.1", "chance": "random:0.1"}
SETTINGS = {"max_steps": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def observing() -> SparsityCallback:
    return SparsityCallback(None, "test", references=REFERENCES)


def trained(model: Path, directory: Path, callback: SparsityCallback | None) -> Run:
    arguments = common_arguments(directory / "out", save_strategy="steps", save_steps=2, **SETTINGS)
    return train(lambda callbacks: plain_trainer(model, arguments, callbacks), directory, callback)


def test_a_training_lands_in_structural_masks_as_numpy_counts_and_goes_on_as_without(
    model: Path, tmp_path: Path
) -> None:
    monitored = trained(model, tmp_path / "monitored", observing())
    # First, because a training that is disturbed has other counts.
    assert_same_training(monitored, trained(model, tmp_path / "alone", None))
    update = UpdateMask.load(tmp_path / "monitored" / "out" / "sparsity_monitor" / "update_mask.safetensors")
    base = plain_trainer(model, common_arguments(tmp_path / "base"), []).model.state_dict()
    for reference, text in REFERENCES.items():
        marked = {name: structural_bools(text, name, base[name].bfloat16()) for name in update.shapes}
        changed = {name: update.bools(name).reshape(-1).numpy() for name in update.shapes}
        overlap = monitored.observation.overlap(reference)
        assert overlap.reference == sum(int(bits.sum()) for bits in marked.values())
        assert overlap.intersection == sum(int((changed[name] & marked[name]).sum()) for name in changed) > 0

    resumed = observing()
    arguments = common_arguments(tmp_path / "monitored" / "out", **SETTINGS)
    plain_trainer(model, arguments, [resumed]).train(
        resume_from_checkpoint=str(tmp_path / "monitored" / "out" / "checkpoint-2")
    )
    last = resumed.last_observation
    assert last is not None
    assert [last.overlap(name) for name in REFERENCES] == [monitored.observation.overlap(name) for name in REFERENCES]


def test_a_file_of_such_a_name_is_given_by_its_path(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As text it is the structural mask, wherever the training is started."""
    monkeypatch.chdir(tmp_path)
    shapes: dict[str, Any] = {
        name: p.shape for name, p in plain_trainer(model, common_arguments(tmp_path), []).model.named_parameters()
    }
    nothing = UpdateMask.from_bools({name: torch.zeros(shape).bool() for name, shape in shapes.items()})
    nothing.save("lowest:0.1")
    given = {"text": "lowest:0.1", "dot": "./lowest:0.1", "path": Path("lowest:0.1")}
    callback = SparsityCallback(None, "test", references=given)
    plain_trainer(model, common_arguments(tmp_path / "out", **SETTINGS | {"max_steps": 1}), [callback]).train()
    assert callback.last_observation is not None
    ones = [callback.last_observation.overlap(name).reference for name in given]
    assert ones == [sum(int(np.prod(shape)) // 10 for shape in shapes.values()), 0, 0]
