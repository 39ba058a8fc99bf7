"""CheckpointFiles: every tensor of a checkpoint as it lies on disk, and a sentence for what is no checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from monitor.analysis.files import CheckpointFiles
from monitor.errors import CheckpointError

_STRIDED = torch.arange(24, dtype=torch.float32).view(4, 6)
WEIGHTS = {
    "nasty": torch.tensor([float("nan"), -0.0, 0.0, float("inf"), -float("inf"), 1e-40], dtype=torch.float32),
    "half": torch.tensor([[1.0, 2.0], [3.0, -0.0]], dtype=torch.float16),
    "brain": torch.arange(7, dtype=torch.bfloat16),
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(2.5),
    "transposed": _STRIDED.T,
    "every other": _STRIDED[1:, ::2],
}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """NaN equals itself, and −0 is not 0."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def assert_same(files: CheckpointFiles, expected: dict[str, torch.Tensor]) -> None:
    assert set(files.names) == set(expected)
    for name, tensor in expected.items():
        read = files.read(name)
        assert (read.shape, read.dtype, files.shapes[name]) == (tensor.shape, tensor.dtype, tuple(tensor.shape)), name
        assert read.is_contiguous()
        assert torch.equal(bits(read), bits(tensor)), name


def save_sharded(directory: Path, weights: dict[str, torch.Tensor]) -> None:
    where = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(weights)}
    for shard in set(where.values()):
        save_file({n: weights[n].contiguous() for n in where if where[n] == shard}, directory / shard)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def test_safetensors_are_read_to_the_bit(tmp_path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in WEIGHTS.items()}, tmp_path / "model.safetensors")
    assert_same(CheckpointFiles.open(tmp_path), WEIGHTS)
    assert_same(CheckpointFiles.open(tmp_path / "model.safetensors"), WEIGHTS)


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    save_sharded(tmp_path, WEIGHTS)
    assert_same(CheckpointFiles.open(str(tmp_path)), WEIGHTS)


def test_what_torch_saved_is_read_without_loading_it_also_where_it_is_not_contiguous_or_tied(tmp_path: Path) -> None:
    torch.save(WEIGHTS | {"tied": WEIGHTS["brain"]}, tmp_path / "pytorch_model.bin")
    files = CheckpointFiles.open(tmp_path)
    assert_same(files, WEIGHTS | {"tied": WEIGHTS["brain"]})
    assert files.tensors["tied"].start == files.tensors["brain"].start


def test_spans_are_those_of_the_row_major_tensor(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "pytorch_model.bin")
    for stored, name in ((CheckpointFiles.open(tmp_path).tensors[name], name) for name in ("brain", "transposed")):
        target = torch.empty(3, dtype=stored.dtype)
        stored.read_span(2, target)
        assert torch.equal(target, WEIGHTS[name].reshape(-1)[2:5])


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("size", [4, 40, -3])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file_is_named(name: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / name
    save_file({"a": torch.ones(9)}, path) if name.endswith("tensors") else torch.save({"a": torch.ones(9)}, path)
    _cut(path, size)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))}.* cut short"):
        CheckpointFiles.open(tmp_path)


def test_a_file_that_is_cut_short_after_it_was_opened_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(9)}, tmp_path / "model.safetensors")
    files = CheckpointFiles.open(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(90)
    with pytest.raises(CheckpointError, match="cut short: it ends at byte 90"):
        files.read("a")


def _nothing(directory: Path) -> None:
    (directory / "config.json").write_text("{}")


def _sharded_training(directory: Path) -> None:
    (directory / "pytorch_model_fsdp_0").mkdir()


def _run_directory(directory: Path) -> None:
    (directory / "checkpoint-10").mkdir()


def _missing_shard(directory: Path) -> None:
    save_sharded(directory, {"a": torch.ones(2), "b": torch.ones(2)})
    (directory / "model-00002-of-00002.safetensors").unlink()


def _packed(directory: Path) -> None:
    header = json.dumps({"w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")


def _no_dictionary(directory: Path) -> None:
    torch.save([torch.ones(2)], directory / "pytorch_model.bin")


def _old_format(directory: Path) -> None:
    torch.save({"a": torch.ones(2)}, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def _sparse(directory: Path) -> None:
    torch.save({"a": torch.eye(3).to_sparse()}, directory / "pytorch_model.bin")


def _pickled(directory: Path) -> None:
    torch.save(Path("x"), directory / "pytorch_model.bin")


def _empty(directory: Path) -> None:
    (directory / "model.safetensors").touch()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_sparse, r"holds 'a' as torch\.sparse_coo, of which nothing is read in part\. Save it dense"),
        # Not what torch advises: to load it with weights_only=False.
        (_pickled, r"as weights that torch\.save wrote\. It is cut short, or has something else than tensors in it"),
        (_empty, r"model\.safetensors' is empty\. Copy or download"),
        (_nothing, "has no weights; expected one of model.safetensors,"),
        (_sharded_training, "accelerate merge-weights"),
        (_run_directory, "Below it are checkpoint-10; give one"),
        (_missing_shard, r"not complete: its index names model-00002-of-00002\.safetensors"),
        (_packed, "w in the dtype 'F4', which cannot be compared"),
        (_no_dictionary, "holds a list; expected"),
        (_old_format, "before 1.6"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_words(make, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        CheckpointFiles.open(tmp_path)


def test_a_hub_id_that_is_not_in_the_cache_is_refused_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"'nobody/nothing' .* not in the local cache, and the hub is not"):
        CheckpointFiles.open("nobody/nothing")


def test_a_path_that_is_not_there_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no directory, no file and no hub id"):
        CheckpointFiles.open("runs/of/last/week")


def test_what_the_system_refuses_to_look_at_is_refused_in_words() -> None:
    with pytest.raises(CheckpointError, match=r"cannot read 'aaaa.*: File name too long"):
        CheckpointFiles.open("a" * 5000)
