"""SparsityCallback: one line in an HF or TRL training script.

It passes a Trainer's events on to the run that is observed, and keeps errors of the monitor away from the training.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from monitor.errors import ConfigurationError, shown
from monitor.observe.comparison import Comparison
from monitor.observe.observation import Observation
from monitor.observe.ranks import join_ranks
from monitor.report.messages.ending import reason_of
from monitor.training.arguments import takes
from monitor.training.asking import SERVED_EVERY, AskedEngine
from monitor.training.attached import tell_of_failure
from monitor.training.base_source import frozen_reference_model, refuse_a_moving_base
from monitor.training.directories import checkpoint_directory, step_of
from monitor.training.observed_run import ObservedRun
from monitor.training.own_calls import OwnCalls
from monitor.training.references import open_references
from monitor.training.served import Fingerprints, ServedWeights
from monitor.training.settings import RunSettings
from monitor.training.start import start_run
from monitor.training.stops import StopNotice
from monitor.training.tracker_log import add_to_log
from monitor.training.trainer import (
    TrainerAnswer,
    may_save_after_evaluating,
    move_to_the_end,
    refuse_a_second_callback,
    surroundings_of,
    updates_early,
)
from monitor.training.trials import trial_number
from monitor.training.under_way import Training, under_way
from monitor.verdict import Verdict

logger = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., None])

# Of one training, or held by the trainer itself.
_NOT_COPIED = ("_run", "_stop", "_engine", "_trainer")


def _never_disturbs(method: Method) -> Method:
    """Answer an event: keep errors of the monitor away from the training, unless `strict`, and see who stops it."""

    @functools.wraps(method)
    def guarded(
        self: SparsityCallback, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._is_inert:
            return
        try:
            self._stop.before(method.__name__, args, state, control, own=self)
            method(self, args, state, control, **kwargs)
            self._stop.after(control)
        except Exception:
            if self.settings.strict:
                raise
            logger.exception("an error in sparsity-monitor; training goes on")

    return cast(Method, guarded)


class SparsityCallback(TrainerCallback):  # type: ignore[misc]
    """Observes how sparse the weight updates of a Trainer run are, and reports them to the service.

    Use `callbacks=[SparsityCallback("localhost:50051")]`, or `SparsityCallback("localhost:50051").attach(trainer)`,
    which also shows the sparsities in the trainer's own logs. On several processes each one has the callback, and the
    first one reports. The arguments are those of RunSettings in monitor/training/settings.py, which explains them. One
    that is not given is taken from the environment, for trainings that are configured by a file: SPARSITY_MONITOR_ and
    its name in capitals, such as SPARSITY_MONITOR_TARGET=localhost:50051, SPARSITY_MONITOR_EVERY=10 or
    SPARSITY_MONITOR_LABELS="algorithm=GRPO,seed=0"; monitor/training/ENVIRONMENT.md has the table.

    It can be pickled and copied. A copy is a callback with the same settings; but one that is made while a training is
    observed does nothing, be it in a process that was forked then, since that run has its observer.

    Attributes:
        settings: the arguments, as RunSettings.

    Raises:
        ConfigurationError: a setting has a value that cannot work.
        MaskFileError: the file of a reference mask is not one that holds a mask.
        TypeError: a setting is unknown.
    """

    @takes(RunSettings)
    def __init__(self, settings: RunSettings) -> None:
        """Check the settings; nothing starts before the training does."""
        self.settings = settings
        self._references = open_references(settings.references or {})
        self._trainer: Trainer | None = None
        self._is_of_observed_training = False
        self._run = ObservedRun(settings)
        self._stop = StopNotice()
        self._served_every = SERVED_EVERY
        self._own_calls = OwnCalls(strict=settings.strict)
        self._engine = AskedEngine()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: all but run and trainer, and where a run is under way, no weights either."""
        state = {name: value for name, value in self.__dict__.items() if name not in _NOT_COPIED}
        if not self._is_inert and not self._run.is_under_way:
            return state
        settings = replace(self.settings, base=None, references=None, on_dense=None)
        return state | {"settings": settings, "_references": {}, "_is_of_observed_training": True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become the copy. Where its trainer is copied with it, that one attaches it, maybe before."""
        self.__dict__.update({"_trainer": None} | self.__dict__ | state)
        self._run = ObservedRun(self.settings)
        self._stop = StopNotice()
        self._engine = AskedEngine()

    @property
    def _is_inert(self) -> bool:
        """Whether this is a copy of a callback that observes a training, and so does nothing."""
        return self._is_of_observed_training or self._run.is_elsewhere

    @property
    def run_id(self) -> str | None:
        """Identity of the run; None before training starts, unless it was given."""
        return self._run.run_id

    @property
    def directory(self) -> Path:
        """Where spool and mask of the run are kept: a temporary folder if nothing can be written where they belong.

        Raises:
            RuntimeError: training has not started.
        """
        if self._run.directory is None:
            raise RuntimeError("the run's directory is known when training starts")
        return self._run.directory

    @property
    def last_observation(self) -> Observation | None:
        """The latest observation, None before the first: of the weights that train, as its step left them."""
        return self._run.last_observation

    @property
    def kept(self) -> Comparison | None:
        """How the weights that are kept differ from the base, None before any are.

        They are those of the latest checkpoint, and when training has ended, those that the model holds then, which may
        be of the best step. `update_mask.safetensors` is the mask of these.
        """
        return self._run.kept

    @property
    def last_verdict(self) -> Verdict | None:
        """What the latest observations mean; None while too few, in the warm-up, or if lost weights could change it."""
        return self._run.last_verdict

    def fingerprint(self) -> dict[str, int] | None:
        """Return `monitor.fingerprint` of the weights as they are now, and keep them as those of the present step.

        As `Watch.fingerprint`: call it between two steps, in every process; None where nothing is observed.
        """
        return None if self._is_inert else self._own_calls.answer(self._run.fingerprint)

    def served(self, fingerprints: Fingerprints, step: int | None = None) -> ServedWeights | None:
        """Compare what an engine serves with the weights that train; where it serves others, it is said in the log.

        As `Watch.served`: call it between two steps, once the engine has taken the weights, in every process.

        Args:
            fingerprints: of the engine's weights: name → number, as `monitor.fingerprint` returns it; of several ranks,
                a list with those of each.
            step: the step whose weights are to be served; None for the present one.

        Returns:
            the step that is served, and the groups that differ; None where it cannot be told.
        """
        return None if self._is_inert else self._own_calls.answer(partial(self._run.served, fingerprints, step))

    def attach(self, trainer: Trainer, *, served_every: int = SERVED_EVERY) -> SparsityCallback:
        """Add this callback to a trainer and show `sparsity/…` in its own logs, so in W&B, TensorBoard, Trackio.

        A reference model that the trainer holds anyway is used as the base, without a copy, if nothing updates it. The
        callback becomes the last one when training begins, so that what others do to the weights after a step is
        observed with it. What others do to them in `on_train_begin` is not part of the base.

        A trainer of TRL with `use_vllm=True` has its engine asked whether it serves the weights that train, right after
        it generated; monitor/training/SERVED.md says what a server needs for it.

        Args:
            trainer: the Trainer.
            served_every: steps after which vLLM is asked again, and after each while it serves others. 0 never asks.

        Returns:
            this callback.
        """
        if not hasattr(trainer, "add_callback"):
            raise ConfigurationError(f"attach() was given {shown(trainer)}; expected the Trainer.")
        if not isinstance(served_every, int) or served_every < 0:
            raise ConfigurationError(f"served_every is {shown(served_every)}; expected a number of steps, 0 for never.")
        trainer.add_callback(self)
        self._trainer = trainer
        self._served_every = served_every
        add_to_log(trainer, self)
        tell_of_failure(trainer, self, self._training_failed.__name__)
        return self

    def _training_failed(self, error: BaseException) -> None:
        """End the run of a training that raised, whoever catches the exception."""
        if self._is_inert:
            return
        try:
            self._engine.stop()
            self._run.fail(reason_of(error))
        except Exception:
            logger.exception("an error in sparsity-monitor; the training's own exception goes on")

    # ---------------------------------------------------------------------------------------------- trainer events

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the base, and announce the run. Errors are raised here, as nothing is trained yet."""
        if self._is_inert:
            logger.warning(
                "sparsity-monitor: this training is not observed, because its SparsityCallback is a copy of one that "
                "was observing another. Make a SparsityCallback for it, or copy before training starts."
            )
            return
        model: nn.Module = kwargs["model"]
        refuse_a_second_callback(model, state)
        refuse_a_moving_base(self.settings.base, args)
        if self._trainer is not None:
            move_to_the_end(self._trainer, self)
        training = Training(state, sys._getframe(), args, model)
        self._engine.stop()
        self._run.abandon()
        under_way.end_left(newcomer=training)
        self._stop = StopNotice()
        self._run = start_run(
            self.settings,
            model,
            surroundings_of(
                args,
                state,
                model,
                trial_number=None if self._trainer is None else trial_number(self._trainer),
                earlier_synchronisations=self._run.synchronisations,
            ),
            join_ranks(next(model.parameters()).device),
            references=self._references,
            # Asked now: callbacks that update it may have been added until here.
            reference_model=None if self._trainer is None else frozen_reference_model(self._trainer),
            unfinished_base=self._run.unfinished_base,
        )
        self._run.look_after(training)
        self._engine = AskedEngine.of(self._trainer, args, self._served_every, strict=self.settings.strict)

    @_never_disturbs
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look for parameters that have become trainable, and for weights that changed after they were observed."""
        if updates_early(args):
            self._run.let_updates_wait()
        self._run.look_for_late_changes()
        self._run.follow(kwargs["model"])
        if self._run.synchronisations.may_generate:
            self._engine.begin_step(state.global_step, self._run.served_weights)

    @_never_disturbs
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look for parameters that a later callback has made trainable since the step began."""
        self._run.let_updates_wait()
        self._run.follow(kwargs["model"])

    @_never_disturbs
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Observe, every `every` steps and where a checkpoint is saved, and answer dense updates."""
        # At a checkpoint, because a run that is resumed from it compares its first step with these weights.
        # At the last step, because the Trainer may load other weights before `on_train_end`.
        must_observe = control.should_save or control.should_training_stop or may_save_after_evaluating(args, control)
        try:
            # Of the step's beginning: before this step's is the present one.
            self._engine.end_step(self._run.served_weights)
            self._run.end_step(state.global_step, must_observe=must_observe, ends=control.should_training_stop)
            if control.should_evaluate or control.should_save or self._run.changes_come_late:
                # Schedule-free optimizers exchange the weights for it, and callbacks for saving.
                self._run.expect_changes()
        finally:
            # Even if observing failed: every process must answer the observation before, as the others do.
            self._run.answer_dense_updates(TrainerAnswer(args, state, control, kwargs))

    @_never_disturbs
    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Observe where a checkpoint is saved, and hold back what may come next: the Trainer loads its best model."""
        # Not in `on_save`: the evaluation between may exchange the weights.
        if control.should_save or may_save_after_evaluating(args, control):
            self._run.observe_unless_done(state.global_step)
        self._run.let_updates_wait()

    @_never_disturbs
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, object] | None = None,
        **kwargs: Any,
    ) -> None:
        """Report what the trainer logs, beside the observations."""
        if logs:
            self._run.log(state.global_step, logs)

    @_never_disturbs
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save which weights were touched so far beside the checkpoint, and see what it holds."""
        self._run.checkpoint(checkpoint_directory(args, state.global_step), state.global_step)

    @_never_disturbs
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Observe the last step, write the mask of the weights that are left, and report that the run is finished."""
        self._engine.stop()
        loaded = state.best_model_checkpoint if args.load_best_model_at_end else None
        best = None if loaded is None else step_of(loaded, state.global_step)
        self._run.finish(state.global_step, best=best, ending=self._stop.ending(state))

    @_never_disturbs
    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the batches, by which some trainers generate."""
        self._run.synchronisations.end_batch()

    @_never_disturbs
    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note that an evaluation may have taken the weights."""
        self._run.synchronisations.evaluate(state.global_step)

    # Events that are answered only to see whether a callback stops the training in them.

    @_never_disturbs
    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See who stops the training."""

    @_never_disturbs
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See who stops the training."""
