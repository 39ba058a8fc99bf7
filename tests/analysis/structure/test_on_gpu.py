"""A structure that is measured on a GPU: the integers of the host, and its other numbers to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monitor.analysis.structure.measured import MatrixStructure, measure_matrix
from monitor.analysis.structure.settings import StructureSettings
from monitor.analysis.structure.update import Update
from monitor.observe.weights.groups import GroupKey
from tests.analysis.structure.arrays import nasty_pair, sparse_pair
from tests.gpu.target import DEVICE, needs_gpu


def measured(pair: tuple[torch.Tensor, torch.Tensor], device: str, whole_up_to: int) -> MatrixStructure:
    settings = StructureSettings(whole_up_to=whole_up_to)
    base, current = (each.to(device) for each in pair)
    update = Update.between(base, current, settings.visible_dtype, settings.criterion)
    return measure_matrix("w", GroupKey(0, "q_proj"), update, settings)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("whole_up_to", [4096, 100])
@pytest.mark.parametrize("pair", [sparse_pair((400, 500), 0.2), nasty_pair((400, 500), torch.float32)])
def test_a_gpu_finds_what_the_host_finds(pair: tuple[torch.Tensor, torch.Tensor], whole_up_to: int) -> None:
    host, found = (measured(pair, device, whole_up_to) for device in ("cpu", DEVICE))

    for name in ("weights", "changed", "without_size", "base_non_finite"):
        assert getattr(found.sums, name) == getattr(host.sums, name)
    assert np.array_equal(found.sums.steps, host.sums.steps)
    assert found.sums.top_energy == pytest.approx(host.sums.top_energy, rel=1e-9)
    assert np.array_equal(found.rows.counts, host.rows.counts)
    assert np.array_equal(found.columns.counts, host.columns.counts)
    assert (found.smallest, found.largest) == (host.smallest, host.largest)
    # Of entries at the limit, rounding decides.
    assert found.principal.o1 == pytest.approx(host.principal.o1, abs=0.02)
    assert found.spectrum.top_share == pytest.approx(host.spectrum.top_share, rel=1e-3)
    assert found.spectrum.stable_rank == pytest.approx(host.spectrum.stable_rank, rel=1e-3)
