"""What a training process of a test may use: trainings of a few steps, and callbacks that do something in them.

Where things are, is in the environment: RUN, TARGET, MODEL, OUTPUT.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerState

from monitor import SparsityCallback
from monitor.training import under_way as _under_way
from monitor.training.trials import find_trial
from tests.tiny import common_arguments, plain_trainer

# No test waits for it as long as people do.
_under_way._LOOK_SECONDS = 0.25


class At(TrainerCallback):  # type: ignore[misc]
    """Does something at the end of a step."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.step = step
        self.act = act

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.act()


class StopsAtTwo(TrainerCallback):  # type: ignore[misc]
    """Stops the training as users' callbacks do."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            control.should_training_stop = True


class StopsAtALog(TrainerCallback):  # type: ignore[misc]
    """Does it elsewhere."""

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = True


class Rows:
    """A data set of tokens that breaks at some row, wherever it is read."""

    def __init__(self, broken: int) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return 64

    def __getitem__(self, row: int) -> dict[str, list[int]]:
        if row >= self.broken:
            raise ValueError(f"row {row} is broken")
        return {"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}


class RowsOfATrainer(list[dict[str, list[int]]]):
    """Rows that bring a callback along into workers, as a data set or a collator that belongs to a trainer does."""

    def __init__(self, rows: list[dict[str, list[int]]], callback: SparsityCallback) -> None:
        super().__init__(rows)
        self.callback = callback

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (list(self), self.callback)


def fails(error: BaseException) -> Callable[[], None]:
    """A function that raises it."""

    def fail() -> None:
        raise error

    return fail


def trial_number(directory: Path) -> int:
    """The number of the trial that begins in a directory."""
    trial = find_trial(TrainerState(is_hyper_param_search=True), directory, None)
    assert trial is not None
    return trial.number


def trained_with(callback: SparsityCallback) -> tuple[int | None, bool]:
    """Train with a callback; the last step that it observed, and whether weights had changed."""
    trainer(callback, max_steps=3).train()
    seen = callback.last_observation
    return (seen.step, bool(seen.changed.sum())) if seen is not None else (None, False)


def observing(run: str = "", **settings: Any) -> SparsityCallback:
    """A callback that reports to the service."""
    run_id = run or os.environ["RUN"]
    return SparsityCallback(os.environ["TARGET"], "test", **{"run_id": run_id, **settings})


def trainer(*callbacks: Any, directory: str = ".", train_dataset: Any = None, **changes: Any) -> Trainer:
    """A trainer of four steps, of one micro-batch each."""
    evaluated = changes.get("eval_strategy", "no") != "no"
    output = Path(os.environ["OUTPUT"], directory)
    made = plain_trainer(
        Path(os.environ["MODEL"]),
        common_arguments(output, **{"gradient_accumulation_steps": 1, "eval_strategy": "no", **changes}),
        list(callbacks),
        evaluated=evaluated,
    )
    if train_dataset is not None:
        made.train_dataset = train_dataset
    return made


def attached(*callbacks: Any, **changes: Any) -> Trainer:
    """The same, with a callback that was attached to it."""
    made = trainer(*callbacks, **changes)
    observing().attach(made)
    return made
