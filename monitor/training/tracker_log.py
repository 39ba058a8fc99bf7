"""The latest observation in a trainer's own logs, and so in W&B, TensorBoard and Trackio."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from monitor.observe.observation import Observation

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)

_PREFIX = "sparsity/"


class Attached(Protocol):
    """A callback that has the latest observation, and the trainer that it is attached to."""

    _trainer: Trainer | None

    @property
    def last_observation(self) -> Observation | None: ...


def add_to_log(trainer: Trainer, callback: Attached) -> None:
    """Let the trainer log the latest observation whenever it logs a loss.

    By wrapping `Trainer.log`: an entry that a callback adds in `on_log` reaches no tracker.
    """
    trainer.log = _LogWithSparsities(trainer, callback)


class _LogWithSparsities:
    """A trainer's `log` that adds the latest observation. A closure would keep the trainer from being pickled."""

    def __init__(self, trainer: Trainer, callback: Attached) -> None:
        self._trainer = trainer
        self._trainer_log: Callable[..., None] = trainer.log
        self._callback = callback

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # A callback is pickled without the trainer, whose copy finds its own again here.
        self._callback._trainer = self._trainer

    def __call__(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        # Evaluations and the summary at the end, which have no loss, get nothing.
        entries = _entries_or_none(self._callback) if "loss" in logs else {}
        self._trainer_log({**logs, **entries}, *args, **kwargs)


def without_tracker_entries(logs: Mapping[str, object]) -> dict[str, object]:
    """Return what the trainer logged of its own."""
    return {name: value for name, value in logs.items() if not str(name).startswith(_PREFIX)}


def _entries_or_none(callback: Attached) -> dict[str, float]:
    try:
        return tracker_entries(callback.last_observation)
    except Exception:
        logger.exception("the sparsities are missing from this log; training goes on")
        return {}


def tracker_entries(observation: Observation | None) -> dict[str, float]:
    """Return entries for a trainer's log; none before the first observation."""
    if observation is None:
        return {}
    entries = {
        "cumulative_sparsity": observation.cumulative_sparsity,
        "whole_model_cumulative_sparsity": observation.whole_model_cumulative_sparsity,
        "step_sparsity": observation.step_sparsity,
        "update_norm": observation.update_norm,
    }
    if (relative := observation.relative_norm) is not None:
        entries["relative_norm"] = relative
    if (ratio := observation.changed_ratio) is not None:
        entries["changed_ratio"] = ratio
    if observation.unmeasured is not None:
        entries["unmeasured_weights"] = float(observation.unmeasured.sum())
    for name in observation.references:
        overlap = observation.overlap(name)
        entries |= {f"overlap_o1/{name}": overlap.o1, f"overlap_lift/{name}": overlap.lift}
    return {_PREFIX + name: value for name, value in entries.items() if value is not None}
