"""Pairs: what two checkpoints have in common, and in words what they have not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2ForSequenceClassification

from monitor.analysis.pairs import Pairs
from monitor.errors import CheckpointError
from monitor.observe.masks.file import write_mask
from tests.analysis.models import changed, dense_model, expert_model, saved


def test_pairs_come_in_the_order_of_the_model_with_their_groups(tmp_path: Path) -> None:
    model = dense_model()
    base, tuned = saved(model, tmp_path / "base"), saved(changed(dense_model()), tmp_path / "tuned")
    before, after = dense_model().state_dict(), changed(dense_model()).state_dict()
    pairs = Pairs.open(base, tuned)
    seen = list(pairs)
    assert [pair.name for pair in seen] == [name for name, _ in model.named_parameters()]
    assert all(torch.equal(pair.base, before[pair.name]) for pair in seen)
    assert all(torch.equal(pair.finetuned, after[pair.name]) for pair in seen)
    assert (seen[1].group.layer, seen[1].group.module) == (0, "self_attn.q_proj")
    assert len(pairs) == len(seen)
    assert pairs.bytes == 2 * 4 * sum(parameter.numel() for parameter in model.parameters())


def test_what_only_one_has_and_what_has_another_shape_is_listed(tmp_path: Path) -> None:
    base, tuned = saved(dense_model(num_hidden_layers=3), tmp_path / "base"), saved(dense_model(), tmp_path / "tuned")
    weights = load_file(tuned / "model.safetensors")
    weights["model.embed_tokens.weight"] = torch.zeros(40, 16)
    weights["v_head.weight"] = torch.zeros(1, 16)
    save_file(weights, tuned / "model.safetensors", {"format": "pt"})
    pairs = Pairs.open(base, tuned)
    assert pairs.reshaped == {"model.embed_tokens.weight": ((32, 16), (40, 16))}
    assert {name.split(".")[2] for name in pairs.missing} == {"2"}
    assert len(pairs.missing) == 12
    assert pairs.added == ("v_head.weight",)
    assert "model.embed_tokens.weight" not in pairs.names


def test_a_reward_model_is_compared_with_the_language_model_that_it_was_made_from(tmp_path: Path) -> None:
    base = saved(dense_model(tied=False), tmp_path / "base")
    reward = Qwen2ForSequenceClassification.from_pretrained(base, num_labels=1)
    pairs = Pairs.open(base, saved(reward, tmp_path / "reward"))
    assert (pairs.missing, pairs.added) == (("lm_head.weight",), ("score.weight",))
    assert set(pairs.names) == {name for name, _ in reward.named_parameters()} - {"score.weight"}


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    base, other = saved(dense_model(), tmp_path / "base"), saved(expert_model(), tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"another model .* model_type 'qwen2' instead of 'qwen3_moe'"):
        Pairs.open(base, other)
    wide = saved(dense_model(hidden_size=32), tmp_path / "wide")
    with pytest.raises(CheckpointError, match=r"another model .* hidden_size 16 instead of 32"):
        Pairs.open(base, wide)


def test_files_of_nothing_in_common_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    save_file({"a": torch.ones(3)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="no parameter of one name and shape in common"):
        Pairs.open(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


def test_one_directory_given_twice_is_refused(tmp_path: Path) -> None:
    base = saved(dense_model(), tmp_path / "base")
    (tmp_path / "link").symlink_to(base)
    with pytest.raises(CheckpointError, match="was given twice"):
        Pairs.open(base, tmp_path / "link")


def test_a_fine_tuned_checkpoint_without_a_configuration_is_read_as_its_base(tmp_path: Path) -> None:
    base, tuned = saved(expert_model(), tmp_path / "base"), saved(changed(expert_model()), tmp_path / "tuned")
    (tuned / "config.json").unlink()
    assert Pairs.open(base, tuned).names == tuple(name for name, _ in expert_model().named_parameters())


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    base, tuned = saved(dense_model(), tmp_path / "base"), saved(dense_model(), tmp_path / "tuned")
    (base / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json"):
        Pairs.open(base, tuned)
    configuration = json.loads((tuned / "config.json").read_text()) | {"num_attention_heads": "two"}
    (tuned / "config.json").write_text(json.dumps(configuration))
    with pytest.raises(CheckpointError, match=r"cannot build a Qwen2ForCausalLM"):
        Pairs.open(base, tuned)


def _adapter(base: Path, directory: Path) -> Path:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=2))
    model.save_pretrained(directory)
    return directory


def test_adapters_in_the_place_of_the_base_or_merged_into_another_one_are_noted(tmp_path: Path) -> None:
    base, tuned = saved(dense_model(), tmp_path / "base"), saved(changed(dense_model()), tmp_path / "tuned")
    adapter = _adapter(base, tmp_path / "adapter")
    assert not list(Pairs.open(base, adapter).notes)
    assert not list(Pairs.open(base, tuned).notes)
    (swapped,) = Pairs.open(adapter, base).notes
    assert "give their base first" in swapped
    (other,) = Pairs.open(tuned, adapter).notes
    assert other == f"The adapters name {base} as their base, and were merged into {tuned}."


def test_a_base_that_adapters_name_and_that_is_gone_is_blamed_on_them(tmp_path: Path) -> None:
    base = saved(dense_model(), tmp_path / "base")
    adapter = _adapter(base, tmp_path / "adapter")
    base.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"adapter' holds adapters, whose base cannot be opened: .*base' is no"):
        Pairs.open(adapter, tmp_path / "moved")


def test_a_checkpoint_without_any_weights_of_a_model_is_said_to_have_none(tmp_path: Path) -> None:
    base, mask = saved(dense_model(), tmp_path / "base"), tmp_path / "mask.safetensors"
    write_mask(mask, [], {}, {})
    with pytest.raises(CheckpointError, match=r"the second none\. Expected a model, and what was trained from it"):
        Pairs.open(base, mask)
