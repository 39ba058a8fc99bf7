"""Checkpoint: what lies on disk, under the names that the model has while it trains, and each weight once."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from monitor.analysis.checkpoint import Checkpoint
from monitor.errors import CheckpointError
from monitor.observe.weights.groups import group_keys
from tests.analysis.models import changed, dense_model, expert_model, saved


def assert_is(checkpoint: Checkpoint, model: torch.nn.Module) -> None:
    """The checkpoint has the model's parameters, in its order, to the bit."""
    parameters = dict(model.named_parameters())
    assert list(checkpoint.names) == list(parameters)
    for name, parameter in parameters.items():
        assert checkpoint.shapes[name] == tuple(parameter.shape), name
        read = checkpoint.read(name)
        assert read.is_contiguous()
        assert (read.dtype, checkpoint.dtypes[name]) == (parameter.dtype, parameter.dtype)
        assert torch.equal(read, parameter.detach()), name
    assert checkpoint.groups == group_keys(parameters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tied_weights_are_there_once(dtype: torch.dtype, tmp_path: Path) -> None:
    model = dense_model(dtype=dtype)
    checkpoint = Checkpoint.open(saved(model, tmp_path, max_shard_size="10KB"))
    assert_is(checkpoint, model)
    assert checkpoint.tied == {"lm_head.weight": "model.embed_tokens.weight"}


def test_tied_weights_that_both_are_in_the_file_are_there_once(tmp_path: Path) -> None:
    model = dense_model()
    model.config.architectures = ["Qwen2ForCausalLM"]
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert_is(Checkpoint.open(tmp_path), model)


def test_tied_weights_that_differ_on_disk_are_two_as_transformers_loads_them(tmp_path: Path) -> None:
    saved(dense_model(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    checkpoint = Checkpoint.open(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert set(checkpoint.names) == {name for name, _ in loaded.named_parameters()}
    assert torch.equal(checkpoint.read("lm_head.weight"), loaded.lm_head.weight)


def test_a_tied_weight_that_is_on_disk_under_its_other_name_is_found(tmp_path: Path) -> None:
    model = dense_model()
    saved(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert_is(Checkpoint.open(tmp_path), model)


def test_experts_are_put_together_as_the_model_has_them(tmp_path: Path) -> None:
    model = expert_model()
    saved(model, tmp_path)
    on_disk = load_file(tmp_path / "model.safetensors")
    assert any(".experts.2.down_proj" in name for name in on_disk), "the layout on disk is that of the model"
    assert_is(Checkpoint.open(tmp_path), model)


def test_a_base_model_is_read_as_the_model_that_was_trained_from_it(tmp_path: Path) -> None:
    trained = dense_model(tied=True)
    base, tuned = saved(trained.model, tmp_path / "base"), saved(trained, tmp_path / "tuned")
    assert_is(Checkpoint.open(base, like=Checkpoint.open(tuned)), trained)


def test_a_model_that_transformers_does_not_know_has_its_names_on_disk_in_order_of_the_layers(tmp_path: Path) -> None:
    weights = {f"net.layers.{i}.w": torch.ones(2) for i in (10, 9, 2)} | {"counter": torch.ones(1, dtype=torch.int64)}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["OurOwnModel"]}))
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.names == ("net.layers.2.w", "net.layers.9.w", "net.layers.10.w")
    assert checkpoint.left_out == ("counter",)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    saved(dense_model(), tmp_path)
    configuration = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(configuration | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(CheckpointError, match=r"quantised \(fp8\).* save the model dequantised"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint8, torch.int8])
def test_packed_weights_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    save_file({"w": torch.ones(4).to(dtype)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="cannot be compared one by one: w "):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_adapters_are_merged_into_their_base_as_they_are_while_they_train(options: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    base = saved(dense_model(tied=False, dtype=torch.bfloat16), tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **options)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), config)
    changed(model)
    model.save_pretrained(tmp_path / "adapter")
    merged = dict(model.merge_and_unload().named_parameters())
    checkpoint = Checkpoint.open(tmp_path / "adapter", base=Checkpoint.open(base))
    assert list(checkpoint.names) == list(merged)
    for name, parameter in merged.items():
        assert torch.equal(checkpoint.read(name), parameter), name
    moved = {name for name in merged if "q_proj.weight" in name or "down_proj" in name or name == "lm_head.weight"}
    moved -= set() if "modules_to_save" in options else {"lm_head.weight"}
    assert checkpoint.unchanged == set(merged) - moved


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    base = saved(dense_model(), tmp_path / "base")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=2))
    model.save_pretrained(tmp_path / "adapter")
    assert "model.norm.weight" in Checkpoint.open(tmp_path / "adapter").unchanged
    other = Checkpoint.open(saved(dense_model(hidden_size=32), tmp_path / "other"))
    with pytest.raises(CheckpointError, match="does not fit its base"):
        Checkpoint.open(tmp_path / "adapter", base=other)


def test_an_adapter_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    base = saved(dense_model(), tmp_path / "base")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=2)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="is not complete"):
        Checkpoint.open(tmp_path, base=Checkpoint.open(base))
