"""Where the base is kept: as given, or by the memory that is free."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from monitor.errors import ConfigurationError
from monitor.observe.base import mode as base_mode
from monitor.observe.observer import UpdateObserver
from monitor.observe.ranks import Alone
from monitor.observe.weights.measured import MeasuredWeights

WEIGHTS = 64 * 48


def a_model(dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
    torch.manual_seed(0)
    # Values of bfloat16 in every dtype, as loaded from a checkpoint.
    return nn.Linear(64, 48, bias=False).to(torch.bfloat16).to(dtype)


def test_the_choice_follows_free_memory_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Base, gradient and two moments; previous weights; masks of what changed and what was touched.
    needed = 4 * 2 * WEIGHTS + WEIGHTS + 2 * WEIGHTS // 8
    with caplog.at_level(logging.INFO, logger="monitor.observe.base.mode"):
        for free, mode in ((None, "device"), (needed, "device"), (needed - 1, "low_byte")):
            monkeypatch.setattr(base_mode, "free_bytes", lambda device, free=free: free)
            assert UpdateObserver(a_model()).base_mode == mode
    assert [record.getMessage() for record in caplog.records] == [
        "sparsity-monitor keeps the base as 'device': 2.00 bytes per weight",
        "sparsity-monitor keeps the base as 'device': 2.00 bytes per weight",
        "sparsity-monitor keeps the base as 'low_byte': 1.00 bytes per weight",
    ]


@pytest.mark.parametrize(
    ("beside_the_weights", "in_host_memory", "expected"),
    [(None, 0, "device"), (9.25, 0, "device"), (9.2, 4, "host"), (9.2, 3.9, "low_byte"), (9.2, None, "host")],
)
def test_off_the_host_its_memory_comes_before_low_bytes(
    monkeypatch: pytest.MonkeyPatch, beside_the_weights: float | None, in_host_memory: float | None, expected: str
) -> None:
    """A device without memory of its own stands for a GPU: it is only asked what it would hold."""
    free = {"meta": beside_the_weights, "cpu": in_host_memory}
    monkeypatch.setattr(
        base_mode, "free_bytes", lambda device: None if (per := free[device.type]) is None else round(per * WEIGHTS)
    )
    weights = torch.empty(WEIGHTS, dtype=torch.bfloat16, device="meta")
    measured = MeasuredWeights("w", (WEIGHTS,), ((0, WEIGHTS),), 0, WEIGHTS, held=lambda: weights)
    chosen = base_mode.choose_base_mode([measured], torch.bfloat16, Alone(), shared=False, step_masks=True)
    assert chosen == expected


def test_processes_on_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_mode, "free_bytes", lambda device: 10 * WEIGHTS)
    assert UpdateObserver(a_model()).base_mode == "device"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert UpdateObserver(a_model()).base_mode == "low_byte"


def test_a_container_leaves_less_than_its_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(base_mode, "_CONTROL_GROUP", tmp_path)
    cpu = torch.device("cpu")
    machine = base_mode.free_bytes(cpu)
    if machine is None:
        pytest.skip("the system does not say how much memory is free")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 400000\ninactive_file 200000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert base_mode.free_bytes(cpu) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert base_mode.free_bytes(cpu) > 500_000


def test_a_mode_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected one of auto, device, host, low_byte"):
        UpdateObserver(a_model(), base_mode="shared")
    with pytest.raises(ConfigurationError, match="only 16-bit weights have low bytes"):
        UpdateObserver(a_model(), base_mode="low_byte", visible_dtype="float32")
