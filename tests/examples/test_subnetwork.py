"""The example of a subnetwork: it runs, and its table is that of the models that it leaves."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from monitor import UpdateMask


def float64(path: Path) -> dict[str, np.ndarray]:
    return {name: weights.double().numpy() for name, weights in load_file(path / "model.safetensors").items()}


def test_the_table_is_that_of_the_models_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import subnetwork

    monkeypatch.setattr(sys, "argv", ["subnetwork.py", str(tmp_path)])
    subnetwork.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = {row[0]: row[1:] for row in rows if row and row[0] in ("base", "subnetwork")}
    base, full, sub = (float64(tmp_path / name) for name in ("base", "full", "subnetwork"))
    for name, weights in (("base", base), ("subnetwork", sub)):
        distances = np.concatenate([np.abs(weights[each] - full[each]).ravel() for each in full])
        assert shown[name] == [f"{np.mean(distances <= tolerance):.2%}" for tolerance in (0.0, 1e-5, 1e-4)]
    assert float(shown["base"][0].rstrip("%")) < 95 < float(shown["subnetwork"][0].rstrip("%"))
    mask = UpdateMask.load(tmp_path / "full" / "sparsity_monitor" / "update_mask.safetensors")
    for name in full:
        # What did not move in the full run has not moved in the subnetwork either.
        assert np.array_equal(sub[name][~mask.bools(name).numpy()], base[name][~mask.bools(name).numpy()]), name
        assert torch.equal(torch.from_numpy(full[name] != base[name]), mask.bools(name)), name
