"""Base and delta make the fine-tuned checkpoint again: every tensor to the bit, and its files byte for byte."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from monitor.analysis.delta import make as making
from monitor.analysis.delta.blocks import Block
from monitor.analysis.delta.container import DeltaFile
from monitor.analysis.files import CheckpointFiles
from monitor.errors import BaseMismatchError, CheckpointError, DeltaError
from tests.analysis.delta.checkpoints import (
    DTYPES,
    Weights,
    apply,
    from_bytes,
    make,
    moved,
    save,
    tensor_bytes,
    there_and_back,
    weights,
)
from tests.analysis.delta.independent_reader import finetuned_files


@st.composite
def two_checkpoints(draw: st.DrawFn) -> tuple[Weights, Weights]:
    base: Weights = {}
    finetuned: Weights = {}
    for i in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(DTYPES))
        count = draw(st.sampled_from([0, 1, 2, 7, 40]))
        size = count * dtype.itemsize
        old = draw(st.binary(min_size=size, max_size=size))
        new = bytearray(old)
        for position in draw(st.sets(st.integers(0, size - 1), max_size=8)) if size else ():
            new[position] = draw(st.integers(0, 255))
        shape = draw(st.sampled_from([(-1,), (1, -1) if count else (0, 3)] + [()] * (count == 1)))
        base[f"w{i}"], finetuned[f"w{i}"] = from_bytes(old, dtype, shape), from_bytes(bytes(new), dtype, shape)
    return base, finetuned


@settings(max_examples=20, deadline=None)
@given(two_checkpoints(), st.sampled_from([1, 3, 1 << 22]))
def test_every_dtype_and_shape_comes_back(checkpoints: tuple[Weights, Weights], block_values: int) -> None:
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "BLOCK_VALUES", block_values)
        place = Path(name)
        base, finetuned = save(place / "base", checkpoints[0]), save(place / "finetuned", checkpoints[1])
        there_and_back(base, finetuned, place)
        old = {name: tensor_bytes(tensor) for name, tensor in checkpoints[0].items()}
        read = finetuned_files(old, place / "it.delta")
        assert read == {path.name: path.read_bytes() for path in finetuned.iterdir()}


def test_negative_zero_and_payloads_of_nan_are_changes(tmp_path: Path) -> None:
    old = torch.tensor([0.0, 1.0, float("nan"), float("nan")])
    new = old.clone()
    new[0] = -0.0
    new.view(torch.int32)[2] += 1
    manifest = there_and_back(save(tmp_path / "a", {"w": old}), save(tmp_path / "b", {"w": new}), tmp_path)
    assert [tensor.changed for tensor in manifest.tensors] == [2]


@pytest.mark.parametrize("density", [0.0, 0.001, 0.2, 1.0])
def test_changes_are_counted_to_the_integer(density: float, tmp_path: Path) -> None:
    old = weights(rows=3000)
    new = moved(old, density)
    manifest = there_and_back(save(tmp_path / "a", old), save(tmp_path / "b", new), tmp_path)
    counted = {tensor.name: tensor.changed for tensor in manifest.tensors}
    assert counted == {name: int((old[name].view(torch.int16) != new[name].view(torch.int16)).sum()) for name in old}


def test_blocks_are_counted_up_to_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "BLOCK_VALUES", 50)
    old = weights()
    new = moved(old)
    new["layer.weight"].view(-1)[50:100] = old["layer.weight"].view(-1)[50:100]
    manifest = there_and_back(save(tmp_path / "a", old), save(tmp_path / "b", new), tmp_path)
    (layer,) = (tensor for tensor in manifest.tensors if tensor.name == "layer.weight")
    assert len(layer.blocks) == 8
    assert layer.blocks[1] == Block("same", 0, 0, 0)
    assert sum(block.changed for block in layer.blocks) == layer.changed > 0


def test_what_the_base_lacks_or_has_otherwise_comes_back(tmp_path: Path) -> None:
    old = weights() | {"gone": torch.zeros(2), "wide": torch.arange(6.0), "same bits": torch.arange(12.0)}
    new = moved(weights()) | {"head": torch.ones(3), "wide": torch.arange(6).half()}
    new["same bits"] = torch.arange(12.0).view(3, 4)
    new["embed.weight"] = torch.cat([new["embed.weight"], torch.ones(2, 8).bfloat16()])
    new["layer.weight"] = new["layer.weight"][:10].contiguous()
    manifest = there_and_back(save(tmp_path / "a", old), save(tmp_path / "b", new), tmp_path)
    assert (manifest.removed, manifest.added, manifest.retyped) == (("gone",), ("head",), ("wide",))
    assert sorted(manifest.reshaped) == ["embed.weight", "layer.weight", "same bits"]
    # Rows that were added or taken away leave the others what they were.
    embed = next(tensor for tensor in manifest.tensors if tensor.name == "embed.weight")
    assert 16 <= embed.changed < 80


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_a_base_in_the_other_dtype_is_compared_in_that_of_the_fine_tuned(
    dtypes: tuple[torch.dtype, torch.dtype], tmp_path: Path
) -> None:
    nasty = torch.tensor([0x7FC00001, -1, 0x7F7FFFFF, 1, -(2**31), 0x7F800000], dtype=torch.int32).view(torch.float32)
    old = torch.cat([torch.randn(5000, generator=torch.Generator().manual_seed(0)), nasty]).to(dtypes[0])
    new = old.to(dtypes[1])
    bits = new.view(torch.int16 if dtypes[1] == torch.bfloat16 else torch.int32)
    bits[:5000:100] += 1
    base, finetuned = save(tmp_path / "a", {"w": old}), save(tmp_path / "b", {"w": new})
    manifest = there_and_back(base, finetuned, tmp_path)
    # What a conversion makes of NaN and of the largest number is up to whoever saved it.
    assert 50 <= manifest.tensors[0].changed <= 50 + len(nasty)
    assert manifest.retyped == ("w",)
    assert (tmp_path / "it.delta").stat().st_size < 2500
    read = finetuned_files({"w": tensor_bytes(old)}, tmp_path / "it.delta")
    assert read == {path.name: path.read_bytes() for path in finetuned.iterdir()}
    other = save(tmp_path / "other", {"w": old.to(dtypes[1])})
    with pytest.raises(BaseMismatchError, match="but not"):
        apply(other, tmp_path / "it.delta", tmp_path / "new")


@pytest.mark.parametrize("saved_twice_in_the_base", [True, False])
def test_tied_weights_are_stored_once(saved_twice_in_the_base: bool, tmp_path: Path) -> None:
    old, new = weights(rows=500), moved(weights(rows=500))
    for tensors in (old, new) if saved_twice_in_the_base else (new,):
        tensors["head.weight"] = tensors["embed.weight"].clone()
    manifest = there_and_back(save(tmp_path / "a", old), save(tmp_path / "b", new), tmp_path)
    copy = next(tensor for tensor in manifest.tensors if tensor.name == "head.weight")
    assert copy.source is not None
    assert (copy.source.of, copy.source.name, copy.blocks) == ("finetuned", "embed.weight", ())
    # It is stored once, and its changes are counted all the same.
    same = next(tensor.changed for tensor in manifest.tensors if tensor.name == "embed.weight")
    assert copy.changed == (same if saved_twice_in_the_base else copy.count)


def test_shards_keep_their_names_their_index_and_their_bytes(tmp_path: Path) -> None:
    old, new = weights(), moved(weights())
    base = save(tmp_path / "base", old)
    finetuned = save(tmp_path / "finetuned", {"norm.weight": new.pop("norm.weight")}, new)
    there_and_back(base, finetuned, tmp_path)
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert again == {path.name: path.read_bytes() for path in finetuned.iterdir()}
    assert "model.safetensors.index.json" in again


@pytest.mark.parametrize("sharded", [False, True])
def test_what_torch_saved_becomes_safetensors(sharded: bool, tmp_path: Path) -> None:
    finetuned = tmp_path / "finetuned"
    finetuned.mkdir()
    new = moved(weights())
    new["strided"] = torch.arange(12.0).view(3, 4).T
    if sharded:
        files = {f"pytorch_model-0000{i}-of-00002.bin": part for i, part in ((1, list(new)[:2]), (2, list(new)[2:]))}
        for file, names in files.items():
            torch.save({name: new[name] for name in names}, finetuned / file)
        where = {"weight_map": {name: file for file, names in files.items() for name in names}}
        (finetuned / "pytorch_model.bin.index.json").write_text(json.dumps(where))
    else:
        torch.save(new, finetuned / "pytorch_model.bin")
    manifest = there_and_back(save(tmp_path / "base", weights()), finetuned, tmp_path)
    assert [(shard.kept, shard.was.endswith(".bin")) for shard in manifest.shards] == [(False, True)] * (1 + sharded)
    written = sorted(path.name for path in (tmp_path / "again").iterdir())
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert written == (shards if sharded else ["model.safetensors"])


def test_a_file_that_has_more_than_its_index_names_is_written_without_it(tmp_path: Path) -> None:
    finetuned = save(tmp_path / "finetuned", moved(weights()), {"last": torch.ones(2)})
    save_file({"last": torch.ones(2), "forgotten": torch.ones(3)}, finetuned / "model-00002-of-00002.safetensors")
    base = save(tmp_path / "base", weights())
    manifest = make(base, finetuned, tmp_path / "it.delta")
    assert [shard.kept for shard in manifest.shards] == [True, False]
    apply(base, tmp_path / "it.delta", tmp_path / "again")
    found = CheckpointFiles.open(tmp_path / "again")
    assert set(found.names) == {*weights(), "last"}


def test_single_files_will_do(tmp_path: Path) -> None:
    base = save(tmp_path / "base", weights()) / "model.safetensors"
    finetuned = save(tmp_path / "finetuned", moved(weights())) / "model.safetensors"
    make(base, finetuned, tmp_path / "it.delta")
    apply(base, tmp_path / "it.delta", tmp_path / "again")
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["model.safetensors"]
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == finetuned.read_bytes()


def test_small_files_travel_along_and_others_are_named(tmp_path: Path) -> None:
    base, finetuned = save(tmp_path / "base", weights()), save(tmp_path / "finetuned", moved(weights()))
    carried = {
        "tokenizer.json": b"{}" * 1000,
        "tokenizer.model": bytes(range(256)),
        "modeling_own.py": b"pass",
        "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
        "empty.txt": b"",
    }
    for name, content in carried.items():
        (finetuned / name).parent.mkdir(exist_ok=True)
        (finetuned / name).write_bytes(content)
    for name in ("optimizer.pt", "training_args.bin", "trainer_state.json", "a\\b.json", ".hidden"):
        (finetuned / name).write_bytes(b"no")
    (finetuned / "checkpoint-7").mkdir()
    (finetuned / "zz.txt").touch()
    (finetuned / "ZZ.txt").touch()
    (finetuned / os.fsdecode(b"r\xe9sum\xe9.txt")).touch()
    with (finetuned / "huge.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    manifest = there_and_back(base, finetuned, tmp_path)
    again = {str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert again == {*carried, "config.json", "model.safetensors", "ZZ.txt"}
    assert all((tmp_path / "again" / name).read_bytes() == content for name, content in carried.items())
    left_out = {
        "r\\udce9sum\\udce9.txt",
        "zz.txt",
        "optimizer.pt",
        "training_args.bin",
        "trainer_state.json",
        "a\\b.json",
        "checkpoint-7",
        "huge.json",
    }
    assert set(manifest.left_out) == left_out


def test_the_same_input_makes_the_same_file(tmp_path: Path) -> None:
    base, finetuned = save(tmp_path / "base", weights()), save(tmp_path / "finetuned", moved(weights()))
    make(base, finetuned, tmp_path / "one.delta")
    make(base, finetuned, tmp_path / "two.delta")
    assert (tmp_path / "one.delta").read_bytes() == (tmp_path / "two.delta").read_bytes()


def test_a_delta_beside_the_weights_does_not_carry_itself(tmp_path: Path) -> None:
    base, finetuned = save(tmp_path / "base", weights()), save(tmp_path / "finetuned", moved(weights()))
    first = make(base, finetuned, finetuned / "it")
    assert make(base, finetuned, finetuned / "it") == first
    assert [file.path for file in first.files] == ["config.json"]


def test_what_cannot_be_read_again_is_not_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, finetuned = save(tmp_path / "base", weights()), save(tmp_path / "finetuned", moved(weights()))
    encode = making.encode
    # A memory that lost a bit: what is described is not what is there.
    monkeypatch.setattr(making, "encode", lambda old, new: encode(old, new ^ (np.arange(len(new)) == 3)))
    with pytest.raises(DeltaError, match="could not be read again"):
        make(base, finetuned, tmp_path / "it.delta")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "finetuned"]


def test_nothing_of_this_machine_is_in_the_file(tmp_path: Path) -> None:
    base, finetuned = save(tmp_path / "base", weights()), save(tmp_path / "finetuned", moved(weights()))
    make(base, finetuned, tmp_path / "it.delta")
    assert str(tmp_path) not in DeltaFile(tmp_path / "it.delta").manifest.model_dump_json()


def test_checkpoints_without_a_common_name_are_refused(tmp_path: Path) -> None:
    base = save(tmp_path / "base", {"model.w": torch.ones(3)})
    finetuned = save(tmp_path / "finetuned", {"w": torch.ones(3)})
    with pytest.raises(DeltaError, match="no tensor of the same name"):
        make(base, finetuned, tmp_path / "it.delta")
    assert not list(tmp_path.glob("it.delta*"))


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    base, adapter = save(tmp_path / "base", weights()), tmp_path / "adapter"
    adapter.mkdir()
    save_file({"lora_A": torch.ones(2, 2)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(DeltaError, match=r"is an adapter.*ship it as it is"):
        make(base, adapter, tmp_path / "it.delta")
    with pytest.raises(DeltaError, match="is an adapter"):
        make(adapter, base, tmp_path / "it.delta")


def in_cache(cache: Path, name: str, checkpoint: Path) -> None:
    """Put a checkpoint where the hub's library keeps what it downloaded: names are links to the content."""
    repository = cache / f"models--{name.replace('/', '--')}"
    for place in ("refs", "blobs", "snapshots/abc"):
        (repository / place).mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    for path in checkpoint.iterdir():
        blob = repository / "blobs" / path.name.encode().hex()
        blob.write_bytes(path.read_bytes())
        (repository / "snapshots" / "abc" / path.name).symlink_to(blob)


def test_hub_ids_are_taken_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    finetuned = save(tmp_path / "finetuned", moved(weights()), {"last": torch.ones(2)})
    in_cache(tmp_path / "cache", "me/base", save(tmp_path / "base", weights()))
    in_cache(tmp_path / "cache", "me/rl", finetuned)
    manifest = make(Path("me/base"), Path("me/rl"), tmp_path / "it.delta")
    assert (manifest.base.source, manifest.finetuned.source) == ("me/base", "me/rl")
    apply(Path("me/base"), tmp_path / "it.delta", tmp_path / "again")
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert again == {path.name: path.read_bytes() for path in finetuned.iterdir()}
    with pytest.raises(CheckpointError, match="me/nothing"):
        make(Path("me/base"), Path("me/nothing"), tmp_path / "new.delta")
