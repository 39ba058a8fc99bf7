from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from monitor.analysis.masks import written_booleans
from monitor.analysis.masks.conversion import stated, to_booleans, to_mask
from monitor.errors import CheckpointError, ConfigurationError, MaskFileError
from monitor.observe.masks.file import MaskFile, MaskMetadata, is_mask
from tests.analysis.masks.mask_files import MEASURED, SHAPES, load, random_bools, save

# As others read each of the formats.
READERS: dict[str, Callable[[Path], Mapping[str, object]]] = {
    "booleans.safetensors": load_file,
    "booleans.pt": lambda path: torch.load(path, weights_only=True),
    "booleans.npz": lambda path: dict(np.load(path)),
}


@pytest.mark.parametrize("target", READERS)
def test_booleans_are_what_others_read_and_come_back_as_the_mask(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written_booleans, "WORDS_OF_A_FILE", 3)
    bools = random_bools(1)
    mask = save(tmp_path / "mask.safetensors", bools)
    said = to_booleans(mask, tmp_path / target)
    assert f"{(tmp_path / target).stat().st_size:,} bytes" in said
    read = READERS[target](tmp_path / target)
    assert list(read) == list(SHAPES) or target.endswith("safetensors")
    for name, bits in bools.items():
        array = np.asarray(read[name])
        assert array.dtype == bool
        assert np.array_equal(array, bits)
        assert array.shape == SHAPES[name]

    back = tmp_path / "back.safetensors"
    to_mask(tmp_path / target, back, stated("bits", "bfloat16"))
    assert {name: bits.tolist() for name, bits in load(back).items()} == {n: b.tolist() for n, b in bools.items()}
    with MaskFile(back) as file:
        # Only safetensors has a place for it.
        kept = target.endswith("safetensors")
        assert file.metadata == (MEASURED if kept else MaskMetadata("bits", "bfloat16"))
    assert ("--criterion bits --visible-dtype bfloat16" in said) is not kept
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["mask.safetensors", "back.safetensors", target])


def test_booleans_in_safetensors_are_not_taken_for_a_mask(tmp_path: Path) -> None:
    mask = save(tmp_path / "mask.safetensors", random_bools(1))
    to_booleans(mask, tmp_path / "booleans.safetensors")
    assert is_mask(mask)
    assert not is_mask(tmp_path / "booleans.safetensors")
    assert not is_mask(tmp_path / "nothing")


def test_a_mask_of_no_weights_is_converted_too(tmp_path: Path) -> None:
    mask = save(tmp_path / "mask.safetensors", {"w": np.zeros((0, 3), dtype=bool)})
    for target, read in READERS.items():
        to_booleans(mask, tmp_path / target)
        assert np.asarray(read(tmp_path / target)["w"]).shape == (0, 3)


NUMBERS = {
    "booleans.safetensors": lambda path, array: save_file({"w": torch.from_numpy(array)}, path),
    "booleans.pt": lambda path, array: torch.save({"w": torch.from_numpy(array)}, path),
    "booleans.npz": lambda path, array: np.savez_compressed(path, w=array),
}


@pytest.mark.parametrize("source", NUMBERS)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int64"])
def test_zeros_and_ones_are_booleans_and_other_numbers_are_refused(source: str, dtype: str, tmp_path: Path) -> None:
    mask = tmp_path / "mask.safetensors"
    NUMBERS[source](tmp_path / source, np.array([[0, 1], [1, 1]], dtype=dtype))
    to_mask(tmp_path / source, mask, {})
    assert load(mask)["w"].tolist() == [[False, True], [True, True]]
    before = mask.read_bytes()
    NUMBERS[source](tmp_path / source, np.array([[0, 1], [2, 1]], dtype=dtype))
    with pytest.raises(MaskFileError, match=r"w in '.*' holds what is neither 0 nor 1, such as 2"):
        to_mask(tmp_path / source, mask, {})
    assert mask.read_bytes() == before


def test_no_number_is_refused_and_minus_zero_is_zero(tmp_path: Path) -> None:
    source, mask = tmp_path / "numbers.pt", tmp_path / "mask.safetensors"
    torch.save({"w": torch.tensor([-0.0, 1.0]).bfloat16()}, source)
    to_mask(source, mask, {})
    assert load(mask)["w"].tolist() == [False, True]
    torch.save({"w": torch.tensor([0.0, float("nan")])}, source)
    with pytest.raises(MaskFileError, match="such as nan"):
        to_mask(source, mask, {})


def test_words_of_others_are_not_taken_for_where_a_mask_comes_from(tmp_path: Path) -> None:
    source, mask = tmp_path / "others.safetensors", tmp_path / "mask.safetensors"
    save_file({"w": torch.tensor([True])}, source, {"step": "last", "criterion": "grad"})
    to_mask(source, mask, {})
    with MaskFile(mask) as file:
        assert file.metadata == MaskMetadata()


def text(path: Path) -> None:
    path.write_text("no mask")


def objects(path: Path) -> None:
    np.savez(path, w=np.array([None, "x"], dtype=object))


def names(path: Path) -> None:
    np.savez(path, w=np.array(["0", "1"]))


def nothing(path: Path) -> None:
    """Leave no file."""


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("x.npz", text, "not a zip file. Expected a file that numpy.savez wrote"),
        ("x.npz", objects, "holds Python objects, which are not read"),
        ("x.npz", names, "neither 0 nor 1, such as '0'"),
        ("x.npz", nothing, "No such file"),
        ("x.pt", text, "cannot read"),
        ("x.pt", nothing, "No such file"),
        ("x.safetensors", text, "is cut short"),
        ("x.csv", text, r"ends in none of .safetensors, .npz, .pt"),
    ],
)
def test_what_is_no_mask_is_refused_in_words(
    name: str, write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    with pytest.raises((MaskFileError, CheckpointError, ConfigurationError), match=message):
        to_mask(tmp_path / name, tmp_path / "mask.safetensors", {})
    assert not (tmp_path / "mask.safetensors").exists()


@pytest.mark.parametrize("target", READERS)
def test_a_full_disk_leaves_what_was_there(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = save(tmp_path / "mask.safetensors", random_bools(1))
    (tmp_path / target).write_text("before")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        to_booleans(mask, tmp_path / target)
    assert (tmp_path / target).read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([target, "mask.safetensors"])


def test_unknown_criteria_dtypes_and_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="criterion is 'relative'"):
        stated("relative", "")
    with pytest.raises(ConfigurationError, match="visible_dtype is 'int8'"):
        stated("", "int8")
    with pytest.raises(ConfigurationError, match=r"'.*csv' ends in none of"):
        to_booleans(save(tmp_path / "mask.safetensors", random_bools(1)), tmp_path / "x.csv")
