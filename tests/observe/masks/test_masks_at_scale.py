"""Masks that are as large as a model: counted, combined, written and read without being in memory twice."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from monitor.errors import MaskFileError
from monitor.observe.masks.file import MaskFile
from monitor.observe.masks.mask import MaskMetadata, UpdateMask

# Over the size of a piece, and not a multiple of it.
SHAPES = {"a.weight": (1 << 10, 1500), "b.weight": (33,), "c.weight": (0,)}


def random_mask(seed: int, density: float = 0.3) -> UpdateMask:
    generator = torch.Generator().manual_seed(seed)
    bools = {name: torch.rand(shape, generator=generator) < density for name, shape in SHAPES.items()}
    return UpdateMask.from_bools(bools, MaskMetadata("bits", "bfloat16", "ab", 5, "run"))


def test_algebra_and_counts_are_those_of_booleans() -> None:
    a, b = random_mask(1), random_mask(2)
    for name in SHAPES:
        one, other = a.bools(name), b.bools(name)
        assert torch.equal((a & b).bools(name), one & other)
        assert torch.equal((a | b).bools(name), one | other)
        assert torch.equal((a ^ b).bools(name), one ^ other)
        assert torch.equal((a - b).bools(name), one & ~other)
        assert a.counts()[name] == int(one.sum())
        assert a.common_counts(b)[name] == int((one & other).sum())


def test_overlap_of_two_masks_is_counted_without_a_third_one() -> None:
    a, b = random_mask(1), random_mask(2)
    overlap = a.overlap(b)
    assert overlap.intersection == (a & b).count()
    assert overlap.changed == a.count()
    assert overlap.reference == b.count()
    assert overlap.lift == pytest.approx(1.0, rel=0.01)


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


def test_a_run_of_words_is_read_alone(tmp_path: Path) -> None:
    mask = random_mask(5)
    mask.save(tmp_path / "mask.safetensors")
    with MaskFile(tmp_path / "mask.safetensors") as file:
        counting = file._file = Counting(file._file)
        assert torch.equal(file.read("a.weight", 7, 1001), mask.words["a.weight"][7:1001])
        assert torch.equal(file.read("a.weight", 47_990), mask.words["a.weight"][47_990:])
        assert file.read("c.weight").numel() == 0
        assert counting.bytes_read == 4 * (1001 - 7 + 48_000 - 47_990)


class Counting:
    """A file that counts what is read of it."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes_read = 0

    def seek(self, offset: int) -> None:
        self._file.seek(offset)

    def readinto(self, buffer: memoryview) -> int:
        count = self._file.readinto(buffer)
        self.bytes_read += count
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_mask_of_a_model_is_written_parameter_by_parameter(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _PEAK_OF_OBSERVER, str(tmp_path / "m")], capture_output=True, text=True, check=True
    )
    peak, mask = map(float, result.stdout.split())
    assert peak < 0.5 * mask


_PEAK_OF_OBSERVER = """
import re, sys
from pathlib import Path
import torch
from monitor import UpdateObserver

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

model = torch.nn.ModuleList([torch.nn.Linear(1 << 12, 1 << 12, bias=False, dtype=torch.bfloat16) for _ in range(30)])
observer = UpdateObserver(model, step_masks=False)
observer.observe(1)
UpdateObserver(torch.nn.Linear(4, 4)).save_update_mask(Path(sys.argv[1]))
before = peak()
observer.save_update_mask(Path(sys.argv[1]))
print(peak() - before, sum(words.numel() for words in observer._state.masks.values()) * 4 / 2**20)
"""


_PEAK = """
import re, sys
from pathlib import Path
import torch
from monitor.observe.masks.mask import UpdateMask

def peak():  # MiB; unlike ru_maxrss, not that of the process which started this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

path, size = sys.argv[1], 1 << 20
words = {f"{i}.weight": torch.full((size,), i, dtype=torch.int32) for i in range(40)}
mask = UpdateMask(words, {name: (size * 32,) for name in words})
before = peak()
mask.save(path)
mask.overlap(mask)
print(peak() - before)
del mask, words
UpdateMask.load(path, names=["3.weight"])
UpdateMask.load(path)
print(peak() - before)
"""


_PEAK_OF_PACKING = """
import re
from pathlib import Path
import torch
from monitor.observe.masks.mask import UpdateMask

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

bits = torch.ones(1 << 27, dtype=torch.bool)
UpdateMask.from_bools({"w": bits[:64]}).bools("w")
before = peak()
mask = UpdateMask.from_bools({"w": bits})
packing = peak() - before
assert mask.bools("w").all()
print(packing, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_packing_and_unpacking_128_million_weights_take_little_more_than_the_result() -> None:
    result = subprocess.run([sys.executable, "-c", _PEAK_OF_PACKING], capture_output=True, text=True, check=True)
    packing, unpacking = map(float, result.stdout.split())
    assert packing < 16 + 64
    assert unpacking < 16 + 128 + 64


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_saving_counting_and_loading_160_mb_take_no_second_copy(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path / "m")], capture_output=True, text=True, check=True
    )
    saving, loading = map(float, result.stdout.split())
    assert saving < 16
    # What is loaded takes the place of what was freed before.
    assert loading < 32
