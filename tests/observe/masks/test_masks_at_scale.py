"""Masks that are as large as a model: counted, combined, written and read without being in memory twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.observe.masks.masks import SHAPES, random_mask


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
