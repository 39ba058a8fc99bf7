"""A Trainer on a GPU: the same losses with the monitor and without, and the counts of the weights as they were."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

# What a machine with a GPU may lack.
pytest.importorskip("transformers", exc_type=ImportError)
pytest.importorskip("accelerate", exc_type=ImportError)
pytest.importorskip("pydantic", exc_type=ImportError)
pytest.importorskip("google.protobuf", minversion="6.30", exc_type=ImportError)

from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from monitor import SparsityCallback, UpdateMask
from monitor.observe.kernels.low_byte import low_byte
from tests.gpu.target import REHEARSAL, needs_gpu
from tests.spooled import spooled

pytestmark = [pytest.mark.gpu, needs_gpu]
STEPS = 6
# Read when cuBLAS is used first: without it, products may come out another way the second time.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def trainings_that_repeat() -> Iterator[None]:
    """Two trainings without the monitor must have the same losses already, or nothing follows from a difference."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


class Snapshots(TrainerCallback):  # type: ignore[misc]
    """Copies the visible weights after every step: what the monitor never does."""

    def __init__(self) -> None:
        self.taken: list[dict[str, torch.Tensor]] = []

    def on_train_begin(self, *args: Any, model: nn.Module, **kwargs: Any) -> None:
        self._take(model)

    def on_step_end(self, *args: Any, model: nn.Module, **kwargs: Any) -> None:
        self._take(model)

    def _take(self, model: nn.Module) -> None:
        self.taken.append({name: p.detach().bfloat16().cpu() for name, p in model.named_parameters()})


def train(output: Path, callbacks: list[TrainerCallback]) -> list[float]:
    """Return the losses of a few steps in float32, as TRL keeps its weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=500,
        # The others add up gradients in an order that changes.
        attn_implementation="eager",
    )
    generator = torch.Generator().manual_seed(3)
    tokens = [torch.randint(0, 500, (32,), generator=generator).tolist() for _ in range(STEPS * 4)]
    arguments = TrainingArguments(
        str(output),
        per_device_train_batch_size=4,
        max_steps=STEPS,
        learning_rate=1e-5,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=REHEARSAL,
        seed=0,
    )
    data = [{"input_ids": ids, "labels": ids} for ids in tokens]
    trainer = Trainer(LlamaForCausalLM(config), arguments, train_dataset=data, callbacks=callbacks)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def moved(before: torch.Tensor, now: torch.Tensor, base: torch.Tensor) -> int:
    """Count as the step mask does, which keeps low bytes; by plain comparison there are a few in a million more."""
    differs = low_byte(before) != low_byte(now)
    return int((differs | ((before != base) ^ (now != base))).sum())


@pytest.mark.parametrize("base_mode", ["device", "host"])
def test_a_training_on_a_gpu_is_measured_and_not_disturbed(tmp_path: Path, base_mode: str) -> None:
    snapshots = Snapshots()
    monitor = SparsityCallback(None, "test", base_mode=base_mode, tolerances=[1e-5], strict=True)
    without = train(tmp_path / "without", [snapshots])
    assert train(tmp_path / "again", []) == without, "what differs without the monitor already says nothing of it"
    assert train(tmp_path / "with", [monitor]) == without
    base = snapshots.taken[0]
    observations = spooled(monitor, "observation")
    assert [o.step for o in observations] == list(range(1, STEPS + 1))
    for (before, now), observation in zip(pairwise(snapshots.taken), observations, strict=True):
        assert sum(observation.changed) == sum(int((now[name] != base[name]).sum()) for name in base)
        assert sum(observation.step_changed) == sum(moved(before[name], now[name], base[name]) for name in base)
        assert observation.device_seconds > 0
    mask = UpdateMask.load(tmp_path / "with" / "sparsity_monitor" / "update_mask.safetensors")
    assert all(torch.equal(mask.bools(name), snapshots.taken[-1][name] != base[name]) for name in mask.shapes)
