from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monitor.analysis.masks.fitting import FittingMasks
from monitor.errors import MaskFileError, MaskMismatchError
from monitor.observe.masks.file import MaskMetadata
from tests.analysis.masks.mask_files import MEASURED, random_bools, save


def two(directory: Path, other: MaskMetadata = MEASURED) -> list[Path]:
    return [
        save(directory / "a.safetensors", random_bools(1)),
        save(directory / "b.safetensors", random_bools(2), other),
    ]


def test_masks_of_other_shapes_are_refused_by_name(tmp_path: Path) -> None:
    bools = random_bools(1) | {"model.norm.weight": np.ones(2, dtype=bool)}
    paths = [*two(tmp_path), save(tmp_path / "c.safetensors", bools)]
    with pytest.raises(
        MaskMismatchError, match=r"model.norm.weight is of shape \[1\] in '.*a.safetensors' and of \[2\]"
    ):
        FittingMasks.open(paths)


def test_masks_of_nothing_in_common_are_refused(tmp_path: Path) -> None:
    other = save(tmp_path / "other.safetensors", {"x": np.ones(3, dtype=bool)})
    with pytest.raises(MaskMismatchError, match=r"other.safetensors' does not cover .* lacks .* and has also x"):
        FittingMasks.open([two(tmp_path)[0], other])


def test_masks_of_no_parameters_are_refused_together_and_told_of_alone(tmp_path: Path) -> None:
    empty = save(tmp_path / "empty.safetensors", {})
    with pytest.raises(MaskMismatchError, match="covers no parameters"):
        FittingMasks.open([empty, empty])
    with FittingMasks.open([empty]) as alone:
        assert alone.shapes == {}


def test_masks_that_cover_other_parameters_are_refused_where_all_must_cover_the_same(tmp_path: Path) -> None:
    fewer = random_bools(3)
    del fewer["scale"]
    with pytest.raises(MaskMismatchError, match=r"it lacks scale\. Expected masks of one model"):
        FittingMasks.open([*two(tmp_path), save(tmp_path / "c.safetensors", fewer)], all_cover_the_same=True)


@pytest.mark.parametrize(
    ("other", "warning"),
    [
        (
            replace(MEASURED, criterion="atol=1e-05"),
            r"different criteria \(bits in '.*a.*', atol=1e-05 in '.*b.*'\)",
        ),
        (replace(MEASURED, visible_dtype="float32"), "of different visible dtypes"),
        (replace(MEASURED, base_fingerprint="cd" * 16), "were taken against different bases"),
    ],
)
def test_masks_that_were_measured_otherwise_are_warned_of(other: MaskMetadata, warning: str, tmp_path: Path) -> None:
    with FittingMasks.open(two(tmp_path, other)) as fitting:
        (said,) = fitting.warnings
    assert re.search(warning, said)


def test_masks_of_other_runs_and_structural_ones_are_not_warned_of(tmp_path: Path) -> None:
    with FittingMasks.open(two(tmp_path, replace(MEASURED, run_id="other", step=9))) as fitting:
        assert fitting.warnings == ()
        assert fitting.shared_metadata == replace(MEASURED, run_id="", step=0)
    with FittingMasks.open(two(tmp_path, MaskMetadata())) as fitting:
        assert fitting.warnings == ()


def test_no_file_stays_open_when_one_cannot_be_read(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    second.write_bytes(second.read_bytes()[:-8])
    # An open file that is forgotten would be a ResourceWarning, which is an error here.
    with pytest.raises(MaskFileError, match="cannot read a mask from"):
        FittingMasks.open([first, second])
