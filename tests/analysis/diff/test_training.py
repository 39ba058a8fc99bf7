"""A comparison of what a training started from with what it saved counts what the training counted, to the integer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import peft
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from monitor import SparsityCallback, UpdateMask
from monitor.analysis.diff.difference import Difference
from monitor.observe.observation import Observation
from monitor.observe.observer import UpdateObserver
from monitor.observe.weights.groups import GroupKey
from tests.analysis.diff.compared import compared, rules
from tests.analysis.models import changed, expert_model, saved
from tests.parallel.models import make_model, spread, train_step
from tests.tiny import common_arguments, save_model, token_data

_TOLERANCES = (1e-8, 1e-5, 1e-4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"), tied=True)


def assert_same_counts(found: Difference, observed: Observation) -> None:
    groups = found.groups
    assert len(groups) == len(observed.groups)
    for i, group in enumerate(observed.groups):
        changes = groups[GroupKey(group.layer, group.module, group.stack)]
        assert (changes.weights, changes.frozen) == (group.trained_weights, group.frozen_weights), group
        assert changes.changed == observed.changed[i], group
        assert changes.hidden == observed.hidden[i], group
        assert changes.non_finite == observed.non_finite[i], group
        assert changes.max_abs == observed.max_abs[i], group
        assert changes.squared_norm == pytest.approx(observed.squared_norm[i], rel=1e-12), group
        for tolerance in _TOLERANCES:
            assert changes.changed_at[tolerance] == observed.changed_at[tolerance][i], group
    assert observed.changed.sum() > 0


def assert_same_mask(mask: Path, of_training: Path) -> None:
    found, expected = UpdateMask.load(mask), UpdateMask.load(of_training)
    assert found.shapes == expected.shapes
    assert found.metadata.base_fingerprint == expected.metadata.base_fingerprint
    assert (found.metadata.criterion, found.metadata.visible_dtype) == ("bits", "bfloat16")
    for name, words in expected.words.items():
        assert torch.equal(found.words[name], words), name


def trained(model: nn.Module, output: Path, **changes: object) -> SparsityCallback:
    """Train for four steps, and save what came out."""
    callback = SparsityCallback(None, "test", tolerances=_TOLERANCES)
    arguments = TrainingArguments(**common_arguments(output, learning_rate=1e-4, **changes))
    trainer = Trainer(model, arguments, train_dataset=token_data(), callbacks=[callback])
    trainer.train()
    trainer.save_model(str(output / "final"))
    return callback


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_of_all_weights(dtype: str, base: Path, tmp_path: Path) -> None:
    callback = trained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), tmp_path)
    mask = tmp_path / "mask.safetensors"
    found = compared(base, tmp_path / "final", rules(tolerances=_TOLERANCES), mask)
    assert_same_counts(found, callback.last_observation)
    assert_same_mask(mask, tmp_path / "sparsity_monitor" / "update_mask.safetensors")
    assert found.shows_hidden == (dtype == "float32")
    # The mask is a reference for another training, which knows that it is of the same base.
    again = SparsityCallback(None, "test", references={"offline": mask})
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    arguments = TrainingArguments(**common_arguments(tmp_path / "again", max_steps=1))
    Trainer(model, arguments, train_dataset=token_data(), callbacks=[again]).train()
    assert again.last_observation.overlap("offline").reference == found.total.changed


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["norm"]}])
def test_of_adapters(options: dict[str, object], base: Path, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], **options)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype="bfloat16"), config)
    callback = trained(model, tmp_path)
    mask = tmp_path / "mask.safetensors"
    found = compared(base, tmp_path / "final", rules(tolerances=_TOLERANCES), mask)
    assert_same_counts(found, callback.last_observation)
    expected = UpdateMask.load(tmp_path / "sparsity_monitor" / "update_mask.safetensors")
    assert set(UpdateMask.load(mask).shapes) == set(expected.shapes)
    for name, words in expected.words.items():
        assert torch.equal(UpdateMask.load(mask).words[name], words), name
    assert UpdateMask.load(mask).metadata.base_fingerprint == expected.metadata.base_fingerprint


def test_of_experts_that_are_one_tensor_in_memory_and_many_on_disk(tmp_path: Path) -> None:
    model = expert_model()
    before = saved(model, tmp_path / "base")
    observer = UpdateObserver(model, tolerances=_TOLERANCES)
    changed(model)
    observed = observer.observe(step=1)
    after = saved(model, tmp_path / "tuned")
    observer.save_update_mask(tmp_path / "training.safetensors")
    found = compared(before, after, rules(tolerances=_TOLERANCES), tmp_path / "mask.safetensors")
    assert_same_counts(found, observed)
    assert_same_mask(tmp_path / "mask.safetensors", tmp_path / "training.safetensors")


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_of_weights_that_fsdp_shards(tmp_path: Path) -> None:
    save_file(make_model().state_dict(), tmp_path / "base.safetensors")
    model = spread(make_model(), "fsdp2")
    observer = UpdateObserver(model, tolerances=_TOLERANCES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(2):
        train_step(model, optimizer, step)
    observed = observer.observe(step=2)
    observer.save_update_mask(tmp_path / "training.safetensors")
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    save_file(whole, tmp_path / "tuned.safetensors")
    mask = tmp_path / "mask.safetensors"
    found = compared(tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", rules(tolerances=_TOLERANCES), mask)
    assert_same_counts(found, observed)
    assert_same_mask(mask, tmp_path / "training.safetensors")
