"""Masks are written whatever is in their way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monitor.observe.masks.file import MaskFile
from monitor.observe.observer import UpdateObserver
from monitor.report.spool.places import Elsewhere
from monitor.training.earlier_mask import room_for_mask
from monitor.training.mask_writer import MaskWriter


@pytest.fixture
def observer() -> UpdateObserver:
    observer = UpdateObserver(torch.nn.Linear(4, 4))
    observer.observe(1)
    return observer


def test_a_mask_goes_elsewhere_where_its_directory_cannot_even_be_looked_at(
    observer: UpdateObserver, tmp_path: Path
) -> None:
    elsewhere = Elsewhere()
    # One of the errors that do not say that nothing is there, as ESTALE of a network file system is.
    gone = tmp_path / ("x" * 300) / "run" / "update_mask.safetensors"
    written = MaskWriter(elsewhere).save_update_mask(observer, gone, "run", observer.compare(1))
    assert written is not None
    assert written.parent in elsewhere.folders()
    written.unlink()
    elsewhere.clear()


@pytest.mark.parametrize("other", ["team/run", "run\0", "x" * 1000, ""])
def test_the_mask_of_a_run_by_any_name_makes_room(observer: UpdateObserver, tmp_path: Path, other: str) -> None:
    path = tmp_path / "update_mask.safetensors"
    observer.save_update_mask(path, other)
    assert room_for_mask(path, "new") == path
    (kept,) = tmp_path.iterdir()
    assert kept != path
    with MaskFile(kept) as file:
        assert file.metadata.run_id == other
