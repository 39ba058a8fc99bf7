from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from monitor.errors import MaskFileError, MaskMismatchError
from monitor.observe.masks.mask import MaskMetadata, UpdateMask, count_ones

SHAPES = {"a": (3, 5), "b": (64,), "c": (2, 2, 33), "empty": (0,)}


def random_bools(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) < 0.3 for name, shape in SHAPES.items()}


def test_bits_come_back_as_they_were_packed() -> None:
    bools = random_bools(0)
    mask = UpdateMask.from_bools(bools)
    assert all(torch.equal(mask.bools(name), bits) for name, bits in bools.items())
    assert mask.counts() == {name: int(bits.sum()) for name, bits in bools.items()}
    assert mask.weights == 15 + 64 + 132


def test_what_is_not_boolean_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"not boolean: w torch\.float32; compare first"):
        UpdateMask.from_bools({"w": torch.ones(3)})


@pytest.mark.parametrize("operator", ["__and__", "__or__", "__xor__", "__sub__"])
def test_set_algebra_is_that_of_booleans(operator: str) -> None:
    a, b = random_bools(1), random_bools(2)
    combined = getattr(UpdateMask.from_bools(a), operator)(UpdateMask.from_bools(b))
    for name in SHAPES:
        expected = a[name] & ~b[name] if operator == "__sub__" else getattr(a[name], operator)(b[name])
        assert torch.equal(combined.bools(name), expected)


def test_ones_are_counted_in_every_bit_of_a_word() -> None:
    words = torch.tensor([-1, 0, 1, -(2**31), 2**31 - 1, 0x55555555], dtype=torch.int32)
    assert count_ones(words) == 32 + 0 + 1 + 1 + 31 + 16


def test_masks_of_other_shapes_do_not_combine() -> None:
    mask = UpdateMask.from_bools({"a": torch.ones(4, dtype=torch.bool)})
    other = UpdateMask.from_bools({"a": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(MaskMismatchError, match=r"other shape: a \[2, 2\] instead of \[4\]|\[4\] instead of \[2, 2\]"):
        mask & other
    with pytest.raises(MaskMismatchError, match="missing: b"):
        mask | UpdateMask.from_bools({"a": torch.ones(4, dtype=torch.bool), "b": torch.ones(1, dtype=torch.bool)})


def test_a_file_holds_the_mask_and_where_it_comes_from(tmp_path: Path) -> None:
    metadata = MaskMetadata("atol=1e-05", "bfloat16", "f" * 32, 120, "run-1")
    mask = UpdateMask.from_bools(random_bools(3), metadata)
    mask.save(tmp_path / "new" / "mask.safetensors")
    loaded = UpdateMask.load(tmp_path / "new" / "mask.safetensors")
    assert loaded.metadata == metadata
    assert loaded.shapes == mask.shapes
    assert (loaded ^ mask).count() == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mask.safetensors"]


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mask.safetensors"
    UpdateMask.from_bools(random_bools(4)).save(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        UpdateMask.from_bools(random_bools(5)).save(path)
    assert path.read_bytes() == before


def write_nothing(path: Path) -> None:
    """Leave no file."""


def write_text(path: Path) -> None:
    path.write_text("no mask")


def write_weights(path: Path) -> None:
    save_file({"w": torch.zeros(3)}, path)


def write_newer(path: Path) -> None:
    save_file({}, path, {"format": "sparsity-monitor mask", "format_version": "2"})


def write_too_short(path: Path) -> None:
    UpdateMask.from_bools(random_bools(6)).save(path)
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("write", [write_nothing, write_text, write_weights, write_newer, write_too_short])
def test_a_file_that_is_no_mask_is_a_clear_error(write: object, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    write(path)
    with pytest.raises(MaskFileError, match=r"file\.safetensors"):
        UpdateMask.load(path)


def test_a_mask_of_no_weights_has_density_zero() -> None:
    assert UpdateMask({}, {}).density == 0.0
