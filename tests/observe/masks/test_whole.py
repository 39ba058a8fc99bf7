"""Masks of a whole model, which are never in memory a second time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_PEAK_OF_OBSERVER = """
import re, sys
from pathlib import Path
import torch
from monitor import UpdateObserver

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

with torch.device("meta"):
    layers = [torch.nn.Linear(1 << 12, 1 << 12, bias=False, dtype=torch.bfloat16) for _ in range(16)]
model = torch.nn.ModuleList(layers).to_empty(device="cpu")
observer = UpdateObserver(model, step_masks=False)
observer.observe(1)
UpdateObserver(torch.nn.Linear(4, 4)).save_update_mask(Path(sys.argv[1]))
before = peak()
observer.save_update_mask(Path(sys.argv[1]))
print(peak() - before, sum(weights.numel() for weights in model.parameters()) / 8 / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_mask_of_a_model_is_written_parameter_by_parameter(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _PEAK_OF_OBSERVER, str(tmp_path / "m")], capture_output=True, text=True, check=True
    )
    peak, mask = map(float, result.stdout.split())
    assert peak < 0.5 * mask
