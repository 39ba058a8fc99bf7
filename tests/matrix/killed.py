"""A training that is killed: of MODEL, into OUTPUT, reported to TARGET, at STEP of the environment."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from monitor import SparsityCallback
from monitor.report.spool.items import Spool
from tests.eventually import eventually
from tests.tiny import common_arguments, sft_trainer

STEPS, SAVE_STEPS = 8, 4


class KillAt(TrainerCallback):
    """Kills this process when a step begins, as the system does that has no memory left."""

    def __init__(self, step: int, observed_by: SparsityCallback) -> None:
        self.step = step
        self.observed_by = observed_by

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            # What is being handed over may be missing. What came before the last step, an observation and a log of each
            # step, is waited for: the resumed training is to supersede some of it.
            eventually(lambda: self._committed() >= 2 * (self.step - 1))
            os.kill(os.getpid(), signal.SIGKILL)

    def _committed(self) -> int:
        (attempt,) = Spool(self.observed_by.directory).attempts()
        return attempt.last_sequence


def make_trainer(model: Path, output: Path, callbacks: list[TrainerCallback]) -> Trainer:
    changes = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": SAVE_STEPS, "learning_rate": 1e-4}
    return sft_trainer(model, common_arguments(output, **changes), callbacks)


def train_until_killed() -> None:
    """Be that training."""
    model, output, target, step = (os.environ[name] for name in ("MODEL", "OUTPUT", "TARGET", "STEP"))
    observed_by = SparsityCallback(target, "killed")
    make_trainer(Path(model), Path(output), [observed_by, KillAt(int(step), observed_by)]).train()
