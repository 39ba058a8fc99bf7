"""Every event of a callback, called as a trainer calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from monitor import SparsityCallback

_EVENTS = (
    "on_train_begin",
    "on_step_begin",
    "on_pre_optimizer_step",
    "on_step_end",
    "on_epoch_end",
    "on_log",
    "on_save",
    "on_train_end",
)


class InTheMiddle(TrainerCallback):  # type: ignore[misc]
    """Does something after the second step."""

    def __init__(self, act: Callable[[dict[str, Any]], None]) -> None:
        self._act = act

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == 2:
            self._act({"args": args, "state": state, "control": control, "model": kwargs["model"]})


def call_every_event(callback: SparsityCallback, event: dict[str, Any]) -> None:
    """Call a callback as a trainer does, from its begin to its end."""
    for name in _EVENTS:
        getattr(callback, name)(**event, logs={"loss": 1.0})
