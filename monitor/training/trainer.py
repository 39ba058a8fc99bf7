"""What a Trainer says of its training, and what it does that a measurement depends on: refused, or waited for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from monitor.errors import ConfigurationError
from monitor.observe.observation import Observation
from monitor.observe.weights.adapters import has_adapters
from monitor.training.directories import output_directory, own_directory
from monitor.training.published import published_about
from monitor.training.resume import RunIdentity, Saved
from monitor.training.surroundings import Surroundings
from monitor.training.synchronisation import Synchronisations
from monitor.training.trials import find_trial
from monitor.verdict import Verdict

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


def surroundings_of(
    args: TrainingArguments,
    state: TrainerState,
    model: nn.Module,
    *,
    trial_number: int | None,
    earlier_synchronisations: Synchronisations,
) -> Surroundings:
    """Return what a Trainer says of the training that begins; the run's identity goes into its state.

    Args:
        trial_number: of a hyperparameter search, where the trainer is known; see `find_trial`.
        earlier_synchronisations: of the callback's training before this one.
    """
    # The Trainer does not tell its callbacks which checkpoint was given to train().
    given = args.resume_from_checkpoint
    is_first = bool(state.is_world_process_zero)
    return Surroundings(
        output=output_directory(args),
        own_directory=own_directory(args),
        # Before transformers 5, the name is by default the output directory.
        run_name=str(args.run_name) if args.run_name and args.run_name != args.output_dir else None,
        # As JSON keeps it, in which checkpoints are saved: a sweep may give NumPy's.
        learning_rate=None if args.learning_rate is None else float(args.learning_rate),
        planned_steps=max(state.max_steps, 0),
        is_first=is_first,
        resumed=Saved(state.global_step, RunIdentity.of(state)) if state.global_step > 0 else None,
        checkpoint=Path(given) if isinstance(given, str | Path) else None,
        identify=lambda identity: identity.write(state),
        trial=partial(find_trial, state, number=trial_number),
        merges_adapters=merges_adapters(args, model),
        published=published_about(args),
        synchronisations=Synchronisations.of(
            args, state.global_step, earlier=earlier_synchronisations, writes_log=is_first
        ),
        put_last="Put SparsityCallback last, or use attach(), which does.",
    )


class TrainerAnswer:
    """Answers dense updates in a Trainer, with what one of its events got.

    Args:
        event: the rest of it, which a function of the user's gets, too.
    """

    def __init__(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, event: Mapping[str, Any]
    ) -> None:
        self._args, self._state, self._control, self._event = args, state, control, event

    def stop(self) -> str:
        """Let the Trainer end after this step, with a checkpoint."""
        self._control.should_training_stop = self._control.should_save = True
        return f"ends the training after step {self._state.global_step}, with a checkpoint"

    def call(self, function: Callable[..., object], observation: Observation, verdict: Verdict) -> None:
        """Call a function of the user's as an event is."""
        function(self._args, self._state, self._control, observation=observation, verdict=verdict, **self._event)
