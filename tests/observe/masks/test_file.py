"""Masks in files: what is read of them, and what is said of those that are none."""

from __future__ import annotations

import copy
import os
import pickle
import re
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from monitor.errors import MaskFileError
from monitor.observe.masks import file as masks_file
from monitor.observe.masks.file import MaskFile
from monitor.observe.masks.mask import UpdateMask
from tests.observe.masks.masks import random_mask


def test_a_saved_mask_is_a_safetensors_file_that_others_can_read(tmp_path: Path) -> None:
    mask = random_mask(3)
    mask.save(tmp_path / "mask.safetensors")
    read = load_file(tmp_path / "mask.safetensors")
    assert {name: words.tolist() for name, words in read.items()} == {n: w.tolist() for n, w in mask.words.items()}
    again = UpdateMask.load(tmp_path / "mask.safetensors")
    assert (again.shapes, again.metadata) == (mask.shapes, mask.metadata)
    assert (again ^ mask).count() == 0


def test_loading_names_gives_these_parameters_only(tmp_path: Path) -> None:
    mask = random_mask(4)
    mask.save(tmp_path / "mask.safetensors")
    part = UpdateMask.load(tmp_path / "mask.safetensors", names=["b.weight"])
    assert part.shapes == {"b.weight": (33,)}
    assert torch.equal(part.words["b.weight"], mask.words["b.weight"])
    with pytest.raises(MaskFileError, match=r"no mask of 'd\.weight'"):
        UpdateMask.load(tmp_path / "mask.safetensors", names=["d.weight"])


def test_a_span_of_words_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = random_mask(5)
    mask.save(tmp_path / "mask.safetensors")
    monkeypatch.setattr(masks_file, "open", lambda path, mode: Counting(path), raising=False)
    with MaskFile(tmp_path / "mask.safetensors") as file:
        Counting.bytes_read = 0
        assert torch.equal(file.read("a.weight", 7, 1001), mask.words["a.weight"][7:1001])
        assert torch.equal(file.read("a.weight", 47_990), mask.words["a.weight"][47_990:])
        assert file.read("c.weight").numel() == 0
    assert Counting.bytes_read == 4 * (1001 - 7 + 48_000 - 47_990)


class Counting(FileIO):
    """Counts what is read of files."""

    bytes_read = 0

    def readinto(self, buffer: memoryview) -> int:
        count = super().readinto(buffer)
        Counting.bytes_read += count
        return count


def test_a_closed_file_says_so(tmp_path: Path) -> None:
    random_mask(5).save(tmp_path / "mask.safetensors")
    with MaskFile(tmp_path / "mask.safetensors") as file:
        pass
    with pytest.raises(MaskFileError, match="is closed; open it again"):
        file.read("a.weight")


def test_a_file_that_ends_early_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "mask.safetensors"
    random_mask(6).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MaskFileError, match="cannot read a mask"):
        UpdateMask.load(path)


def rewritten(path: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> Path:
    """Write the mask again with other metadata."""
    with safe_open(path, "pt") as file:
        fields = file.metadata()
    save_file(load_file(path), path, change(fields))
    return path


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"step": "soon"}, "its step is 'soon'"),
        ({"shapes": "{"}, "its shapes cannot be read"),
        ({"shapes": '{"a.weight": 5}'}, "its shapes cannot be read"),
        ({"format_version": ""}, "its format version is ''"),
    ],
)
def test_metadata_that_cannot_be_read_is_named(tmp_path: Path, fields: dict[str, str], named: str) -> None:
    random_mask(6).save(tmp_path / "mask.safetensors")
    rewritten(tmp_path / "mask.safetensors", lambda found: found | fields)
    with pytest.raises(MaskFileError, match=re.escape(named)):
        MaskFile(tmp_path / "mask.safetensors")


def test_metadata_that_is_missing_is_named(tmp_path: Path) -> None:
    random_mask(6).save(tmp_path / "mask.safetensors")
    rewritten(tmp_path / "mask.safetensors", lambda found: {k: v for k, v in found.items() if k != "run_id"})
    with pytest.raises(MaskFileError, match="does not say its run_id"):
        MaskFile(tmp_path / "mask.safetensors")


def test_ones_behind_the_last_weight_are_damage(tmp_path: Path) -> None:
    mask = random_mask(6)
    mask.words["b.weight"][1] |= 2
    mask.save(tmp_path / "mask.safetensors")
    with pytest.raises(MaskFileError, match=r"more ones for b\.weight than weights"):
        UpdateMask.load(tmp_path / "mask.safetensors")


def test_a_file_that_is_cut_short_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    """Mapped into memory, it would end the process."""
    random_mask(6).save(tmp_path / "mask.safetensors")
    with MaskFile(tmp_path / "mask.safetensors") as file:
        os.truncate(tmp_path / "mask.safetensors", (tmp_path / "mask.safetensors").stat().st_size - 4)
        with pytest.raises(MaskFileError, match=r"is damaged: it ends within b\.weight"):
            file.read("b.weight")


def test_an_open_file_stays_the_same_mask_when_another_one_takes_its_place(tmp_path: Path) -> None:
    mask = random_mask(6)
    mask.save(tmp_path / "mask.safetensors")
    with MaskFile(tmp_path / "mask.safetensors") as file:
        UpdateMask.from_bools({"a.weight": torch.ones(3, dtype=torch.bool)}).save(tmp_path / "mask.safetensors")
        assert torch.equal(file.read("a.weight"), mask.words["a.weight"])


def test_a_copy_of_a_file_reads_it_too(tmp_path: Path) -> None:
    mask = random_mask(6)
    mask.save(tmp_path / "mask.safetensors")
    original = MaskFile(tmp_path / "mask.safetensors")
    for again in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert torch.equal(again.read("a.weight"), mask.words["a.weight"])


def test_a_mask_with_words_of_another_number_is_not_written(tmp_path: Path) -> None:
    mask = UpdateMask({"w": torch.zeros(3, dtype=torch.int32)}, {"w": (33,)})
    with pytest.raises(ValueError, match=r"w has 3 words of torch\.int32 for the shape \[33\]"):
        mask.save(tmp_path / "mask.safetensors")
    assert list(tmp_path.iterdir()) == []
