"""Masks that processes cannot write where they belong: all try together elsewhere, and none is left waiting."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from monitor.observe.masks.mask import UpdateMask
from monitor.observe.observer import UpdateObserver
from monitor.report.spool.places import Elsewhere
from monitor.training.mask_writer import MaskWriter
from tests.parallel.models import make_model, spread
from tests.parallel.processes import run_together


def write_masks(directory: Path) -> tuple[int, list[str], Path | None, int]:
    """Return what was touched, the files with it, where the update mask is, and what it counts when it is read."""
    own = directory / f"temporary-{dist.get_rank()}"
    own.mkdir()
    tempfile.tempdir = str(own)
    model = spread(make_model(), "fsdp2")
    observer = UpdateObserver(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    observer.observe(1)
    masks = MaskWriter(Elsewhere())
    masks.save_touched(observer, directory / "checkpoint-1")
    touched = [path for path in own.rglob("touched_mask-*") if path.parent.parent.name == "checkpoint-1"]
    taken = directory / "update_mask.safetensors"
    mask = masks.save_update_mask(observer, taken if observer.is_first else None, "run", observer.compare(1))
    restored = observer.restore([path.parent for path in touched])
    return int(restored), [path.name for path in touched], mask, 0 if mask is None else UpdateMask.load(mask).count()


@pytest.mark.xdist_group("parallel")
def test_masks_of_several_processes_go_elsewhere_together(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "sparsity_monitor").touch()
    (tmp_path / "update_mask.safetensors").mkdir()
    first, second = run_together(write_masks, 2, tmp_path)
    assert first[:2] == (1, ["touched_mask-00000-of-00002.safetensors"])
    assert second[:2] == (1, ["touched_mask-00001-of-00002.safetensors"])
    assert first[2].is_relative_to(tmp_path / "temporary-0")
    assert first[3] == sum(parameter.numel() for parameter in make_model().parameters())
    assert second[2:] == (None, 0)
