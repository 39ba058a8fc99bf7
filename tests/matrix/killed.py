"""A training that is killed: `python -m tests.matrix.killed MODEL OUTPUT TARGET STEP`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from monitor import SparsityCallback
from tests.tiny import common_arguments, sft_trainer

STEPS, SAVE_STEPS = 8, 4


class KillAt(TrainerCallback):
    """Kills this process when a step begins, as the system does that has no memory left."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def make_trainer(model: Path, output: Path, callbacks: list[TrainerCallback]) -> Trainer:
    changes = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": SAVE_STEPS, "learning_rate": 1e-4}
    return sft_trainer(model, common_arguments(output, **changes), callbacks)


if __name__ == "__main__":
    model, output, target, step = sys.argv[1:]
    make_trainer(Path(model), Path(output), [SparsityCallback(target, "killed"), KillAt(int(step))]).train()
