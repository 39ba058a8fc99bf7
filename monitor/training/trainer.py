"""What trainers do that a measurement depends on: what is refused, warned of, or waited for."""

from __future__ import annotations

import logging
import weakref

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from monitor.errors import ConfigurationError
from monitor.observe.weights.adapters import has_adapters

logger = logging.getLogger(__name__)

# The training of a model that is observed: a training is known by its state, as `train()` makes a new one.
_observed: weakref.WeakKeyDictionary[nn.Module, weakref.ref[TrainerState]] = weakref.WeakKeyDictionary()


def refuse_a_second_callback(model: nn.Module, state: TrainerState) -> None:
    """Note that this training is observed.

    Raises:
        ConfigurationError: it is observed already.
    """
    observed_in = _observed.get(model)
    if observed_in is not None and observed_in() is state:
        raise ConfigurationError(
            f"two SparsityCallbacks observe this training of {type(model).__name__}; expected one. Remove one of "
            "`callbacks=[…]`, `trainer.add_callback(…)` and `.attach(trainer)`."
        )
    _observed[model] = weakref.ref(state)


def merges_adapters(args: TrainingArguments, model: nn.Module) -> bool:
    """Return whether the trainer merges adapters into the weights below them: for vLLM, TRL does at every step.

    Taking them out again does not restore these bit for bit, so that they are no base.
    """
    return bool(getattr(args, "use_vllm", False)) and has_adapters(model)


def warn_of_moved_weights() -> None:
    """Warn that updates are measured against weights that a training has already moved."""
    logger.warning(
        "sparsity-monitor: training starts again from weights that it has already moved, and updates are measured "
        "against them as they are now. Give the original weights as `base`."
    )


def updates_early(args: TrainingArguments) -> bool:
    """Return whether weights change before `on_pre_optimizer_step`.

    DeepSpeed, LOMO and layerwise optimizers update within the backward pass; for vLLM, TRL merges adapters before it.
    """
    optimizer = str(getattr(args.optim, "value", args.optim))
    by_deepspeed = getattr(args, "deepspeed", None) or getattr(args, "deepspeed_plugin", None)
    in_backward = "lomo" in optimizer or optimizer.endswith("layerwise")
    return bool(by_deepspeed or in_backward or getattr(args, "use_vllm", False))


def may_save_after_evaluating(args: TrainingArguments, control: TrainerControl) -> bool:
    """Return whether a checkpoint is saved if the evaluation that comes next finds the best weights so far."""
    return bool(control.should_evaluate and getattr(args.save_strategy, "value", args.save_strategy) == "best")


def move_to_the_end(trainer: Trainer, callback: TrainerCallback) -> None:
    """Let the trainer call a callback after all others from its next event on."""
    handler = trainer.callback_handler
    # Another list: the present one may be gone through just now.
    handler.callbacks = [*(each for each in handler.callbacks if each is not callback), callback]
