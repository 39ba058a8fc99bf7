"""examples/lightning_callback.py on two processes, with DDP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.sharded import assert_counted, import_example
from tests.parallel.trainings import run_as_torchrun
from tests.spooled import recorded_in

pytestmark = pytest.mark.xdist_group("parallel")

STEPS = 2
TEXTS = ["what is two plus two ? four", "hello world , this is a test", "the quick brown fox"]


def train_with_lightning(directory: Path) -> Any:
    # By these, Lightning sees that torchrun has started it.
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    example = import_example("lightning_callback")
    command = example.Command(directory / "base", None, directory / "run", STEPS, seed=0)
    callback = example.LightningCallback(None, strict=True)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    example.train(command, TEXTS, callback, accelerator="cpu", devices=2, strategy="ddp", **quiet)
    return callback.watch.run_id, callback.watch.last_observation


def test_a_training_of_lightning_on_two_processes_is_counted_once(tmp_path: Path) -> None:
    from tests.tiny import save_model

    base = save_model(tmp_path / "base")
    results = run_as_torchrun(2, train_with_lightning, (tmp_path,))
    for _, observation in results:
        assert_counted(observation, base, tmp_path / "run" / "final")
    # The first one reports.
    assert [run_id is None for run_id, _ in results] == [False, True]
    assert [each.step for each in recorded_in(tmp_path / "run", "observation")] == [1, 2]
