"""SparsityCallback: one line in an HF or TRL training script.

It observes after optimizer steps (`on_step_end`), hands the counts to the reporter, and is done with them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from monitor.errors import BaseMismatchError
from monitor.observe.masks.file import MaskFile
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.observation import Observation
from monitor.observe.observer import UpdateObserver
from monitor.observe.ranks import join_ranks
from monitor.reference_model import frozen_reference_model
from monitor.report.reporter import Reporter
from monitor.report.spool import DEFAULT_MAX_BYTES
from monitor.training.on_dense import DenseWatch, OnDense
from monitor.training.pace import Pace
from monitor.training.settings import RunSettings
from monitor.training.start import make_observer, open_references, start_reporter
from monitor.training.tracker_log import TRACKER_PREFIX, tracker_entries
from monitor.training.trainer import (
    STATE_KEY,
    BaseSource,
    check_base,
    check_measured_alike,
    find_base,
    measured_as,
    refuse_a_moving_base,
    refuse_a_second_callback,
    restore_touched,
    touched_directory,
    updates_early,
    warn_of_merging,
    warn_of_moved_weights,
)
from monitor.verdict import DenseThresholds, Verdict

logger = logging.getLogger(__name__)

MASK_FILE = "update_mask.safetensors"

Method = TypeVar("Method", bound=Callable[..., None])


def _never_disturbs(method: Method) -> Method:
    """Keep what goes wrong in the monitor away from the training, unless `strict`."""

    @functools.wraps(method)
    def guarded(self: SparsityCallback, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception:
            if self.settings.strict:
                raise
            logger.exception("an error in sparsity-monitor; training goes on")

    return cast(Method, guarded)


class SparsityCallback(TrainerCallback):  # type: ignore[misc]
    """Observes how sparse the weight updates of a Trainer run are, and reports them to the service.

    Use `callbacks=[SparsityCallback("localhost:50051")]`, or `SparsityCallback("localhost:50051").attach(trainer)`,
    which also shows the sparsities in the trainer's own logs.

    Args:
        target: gRPC address of the service, host:port. None only records; deliver later with `sparsity-monitor push`.
        run_name: for people; by default the trainer's run_name, else the output directory's name.
        labels: such as {"algorithm": "GRPO", "dataset": "gsm8k", "seed": "0"}; they become labels of the metrics.
        base: weights that updates are measured against: a directory or hub id, a frozen module (used in place), or a
            state dict. By default the weights at the start of training; when resuming, they are read again from the
            model's `name_or_path`. With adapters it is the frozen weights below them, which the model holds.
        references: name → mask of another run, or its file; the overlap with each is counted. Of a file, each process
            reads what it measures, when training starts.
        criterion: "bits" or "atol=1e-5"; what counts as changed.
        tolerances: the changed weights are also counted at each of these absolute tolerances.
        visible_dtype: "bfloat16", "float16" or "float32": the dtype that the trained model will be served in. Weights
            are rounded to it before they are compared.
        every: optimizer steps between observations. The last step is always observed.
        max_overhead: share of the training's time that observing may cost, such as 0.01. Where it costs more, there are
            more steps between observations. None for no bound.
        base_mode: where the base is kept: "device", "host", "low_byte"; see observe.base_mode. "auto" chooses by free
            memory.
        include, exclude: regular expressions searched for in parameter names.
        step_masks: compare with the previous observation, too.
        save_mask: write the final update mask to the run's directory.
        strict: raise into the training when the monitor fails, and refuse to start when the service does not answer.
        run_id: identity of the run; by default made up, and kept across resumes.
        directory: where spool and mask are kept; by default `sparsity_monitor` in the output directory.
        spool_max_bytes: bound on what is kept for a service that cannot be reached; beyond it the oldest is dropped.
        on_dense: what to do, once, when updates are dense: "warn" in the log; "stop" the training after this step, with
            a checkpoint; call a function with (args, state, control, **kwargs), as an event of a TrainerCallback is,
            where kwargs also hold `observation` and `verdict`. It is called in every process of a parallel training
            with the same counts, and a flag that it sets in `control` must not depend on more than those. None does
            nothing. On a GPU, an observation is seen one step later. NaN and infinite weights are not dense: they stop
            nothing, so no good checkpoint is rotated away.
        dense_thresholds: when updates are dense.

    Attributes:
        last_observation: the latest Observation, None before the first.
        last_verdict: what the latest observations mean, None while they are too few or the warm-up lasts.

    Raises:
        ConfigurationError: a setting has a value that cannot work.
        MaskFileError: the file of a reference mask is not one that holds a mask.
    """

    def __init__(
        self,
        target: str | None,
        run_name: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        base: BaseSource | None = None,
        references: Mapping[str, UpdateMask | MaskFile | str | Path] | None = None,
        criterion: str = "bits",
        tolerances: Sequence[float] = (),
        visible_dtype: str = "bfloat16",
        every: int = 1,
        max_overhead: float | None = None,
        base_mode: str = "auto",
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        step_masks: bool = True,
        save_mask: bool = True,
        strict: bool = False,
        run_id: str | None = None,
        directory: str | Path | None = None,
        spool_max_bytes: int = DEFAULT_MAX_BYTES,
        on_dense: OnDense = "warn",
        dense_thresholds: DenseThresholds | None = None,
    ) -> None:
        self.settings = RunSettings.check(
            target=target,
            run_name=run_name,
            run_id=run_id,
            labels=labels or {},
            criterion=criterion,
            tolerances=tolerances,
            visible_dtype=visible_dtype,
            every=every,
            max_overhead=max_overhead,
            base_mode=base_mode,
            include=include,
            exclude=exclude,
            step_masks=step_masks,
            save_mask=save_mask,
            strict=strict,
            directory=directory,
            spool_max_bytes=spool_max_bytes,
            on_dense=on_dense,
            dense_thresholds=DenseThresholds() if dense_thresholds is None else dense_thresholds,
        )
        self._base = check_base(base)
        self._references = open_references(references or {})
        self._find_reference_model: Callable[[], nn.Module | None] = lambda: None
        self._observer: UpdateObserver | None = None
        # Fingerprint of the base of a training that has not ended.
        self._unfinished_base: str | None = None
        self._pace = Pace(every, max_overhead)
        self._reporter: Reporter | None = None
        self._directory: Path | None = None
        self._run_id = self.settings.run_id
        self.last_observation: Observation | None = None
        self.last_verdict: Verdict | None = None
        self._dense_watch = self._make_dense_watch(speaks=True)

    @property
    def run_id(self) -> str | None:
        """Identity of the run; None before training starts, unless it was given."""
        return self._run_id

    def attach(self, trainer: Trainer) -> SparsityCallback:
        """Add this callback to a trainer and show `sparsity/…` in its own logs, so in W&B, TensorBoard, Trackio.

        A reference model that the trainer holds anyway is used as the base, without a copy, if nothing moves it.

        Returns:
            this callback.
        """
        trainer.add_callback(self)
        # When training starts: callbacks that move it may still be added.
        self._find_reference_model = partial(frozen_reference_model, trainer)
        trainer_log = trainer.log

        def log(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            trainer_log({**logs, **self._log_entries(logs)}, *args, **kwargs)

        trainer.log = log
        return self

    def _log_entries(self, logs: Mapping[str, float]) -> dict[str, float]:
        # Evaluations and the summary at the end are logged the same way; they get nothing.
        try:
            return tracker_entries(self.last_observation) if "loss" in logs else {}
        except Exception:
            logger.exception("the sparsities are missing from this log; training goes on")
            return {}

    # ---------------------------------------------------------------------------------------------- trainer events

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the base, and announce the run. Raises what is wrong, as nothing is trained yet."""
        model: nn.Module = kwargs["model"]
        refuse_a_second_callback(model, state)
        refuse_a_moving_base(self._base, args)
        self._end_earlier_training()
        warn_of_merging(args, model)
        step = state.global_step
        known = state.stateful_callbacks.get(STATE_KEY, {}).get("attributes", {}) if step else {}
        check_measured_alike(self.settings, known)
        ranks = join_ranks(next(model.parameters()).device)
        search = partial(find_base, model, self._base, self._find_reference_model(), ranks, resumed=step > 0)
        base, base_source = ranks.all_or_none(search)
        observer = make_observer(self.settings, model, base=base, references=self._references, step=step, ranks=ranks)
        moved = base is None and self._unfinished_base not in (None, observer.base_fingerprint)
        if moved and state.is_world_process_zero:
            warn_of_moved_weights()
        if (fingerprint := known.get("base_fingerprint", observer.base_fingerprint)) != observer.base_fingerprint:
            raise BaseMismatchError(
                f"the base read from {base_source!r} is not the one that run {known.get('run_id')} started from "
                f"(fingerprint {observer.base_fingerprint} instead of {fingerprint}). Give the original weights as "
                f"`base`, or delete {STATE_KEY!r} from the checkpoint's trainer_state.json to start a new run."
            )
        if step:
            restore_touched(observer, args, state)
        self._dense_watch = self._make_dense_watch(speaks=state.is_world_process_zero)
        start = partial(start_reporter, self.settings, observer, model, args, known=known, base_source=base_source)
        self._reporter = ranks.all_or_none(lambda: start() if state.is_world_process_zero else None)
        self._observer = observer
        self._unfinished_base = observer.base_fingerprint
        if self._reporter is not None:
            self._directory = self._reporter.directory
            self._run_id = self._reporter.key.run_id
            attributes = {
                "run_id": self._run_id,
                "attempt": self._reporter.key.attempt,
                "base_fingerprint": observer.base_fingerprint,
                "measured_as": measured_as(self.settings),
            }
            state.stateful_callbacks[STATE_KEY] = {"args": {}, "attributes": attributes}

    @_never_disturbs
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look for parameters that have become trainable."""
        if updates_early(args):
            self._let_the_update_wait()
        self._follow(kwargs["model"])

    @_never_disturbs
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look for parameters that have become trainable since the step began, by a callback that comes after this."""
        self._let_the_update_wait()
        self._follow(kwargs["model"])

    @_never_disturbs
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Observe, every `every` steps and where a checkpoint is saved, and answer dense updates."""
        # At a checkpoint, because the run may be resumed from it: what comes next is compared with these weights then.
        # And at the last step, as the Trainer may put other weights in place before it says that training has ended.
        due = self._pace.is_due(state.global_step) or control.should_save or control.should_training_stop
        try:
            if due:
                self._observe(state.global_step)
            else:
                # What was made beside the training is ready by now.
                self._collect()
        finally:
            # Also when observing failed: the other processes may have to answer what was seen before.
            if self.last_observation is not None:
                self._dense_watch.answer(
                    self.last_observation, self.last_verdict, args=args, state=state, control=control, **kwargs
                )

    @_never_disturbs
    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let what may come next wait: the Trainer loads its best model."""
        self._let_the_update_wait()

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
        if self._reporter is not None and logs:
            own = {name: value for name, value in logs.items() if not name.startswith(TRACKER_PREFIX)}
            self._reporter.log(state.global_step, own)
            self._dense_watch.remember(own)

    @_never_disturbs
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save which weights were touched so far beside the checkpoint."""
        if self._observer is None:
            return
        if self._observer.last_step < state.global_step:
            # Saved at the end of an epoch, or because a callback after this one asked for it.
            self._observe(state.global_step)
        # Every process hears here of one that failed to start the last observation, before they meet again.
        self._collect()
        self._observer.save_touched(touched_directory(args, state.global_step))

    @_never_disturbs
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Observe the last step, write the mask, and say that the run is finished."""
        try:
            self._observe_the_last_step(args, state)
            if self.settings.save_mask and self._observer is not None:
                # Only the first process has a directory.
                path = None if self._directory is None else self._directory / MASK_FILE
                self._observer.save_update_mask(path, self._run_id or "")
        finally:
            if self._reporter is not None:
                self._reporter.finish(state.global_step)
            self._close_reporter()
            self._observer = None
            self._unfinished_base = None

    # ------------------------------------------------------------------------------------------------------- parts

    @property
    def directory(self) -> Path:
        """Where spool and mask of the run are kept.

        Raises:
            RuntimeError: training has not started.
        """
        if self._directory is None:
            raise RuntimeError("the run's directory is known when training starts")
        return self._directory

    def _make_dense_watch(self, *, speaks: bool) -> DenseWatch:
        settings = self.settings
        return DenseWatch(
            settings.on_dense,
            settings.dense_thresholds,
            measured_as=f"{settings.criterion} in {settings.visible_dtype}",
            speaks=speaks,
            strict=settings.strict,
        )

    def _end_earlier_training(self) -> None:
        """End a training that was left without its end, as with auto_find_batch_size after an out-of-memory error."""
        try:
            # Beside the training, the latest observation is not taken yet.
            self._collect()
        except Exception:
            logger.exception("the last observation of the training before is lost; training goes on")
        self._observer = None
        if self._reporter is not None:
            self._reporter.finish(step=0, failure="training was started again before it had ended")
            self._close_reporter()
        self.last_observation = None
        self.last_verdict = None
        self._pace = Pace(self.settings.every, self.settings.max_overhead)

    def _close_reporter(self) -> None:
        reporter, self._reporter = self._reporter, None
        if reporter is None or reporter.close() or self.settings.target is None:
            return
        logger.warning(
            "sparsity-monitor: not everything has reached %s yet; the uploader goes on trying for a while. For what is "
            "left then: sparsity-monitor push %s --target %s",
            self.settings.target,
            reporter.directory,
            self.settings.target,
        )

    def _let_the_update_wait(self) -> None:
        if self._observer is not None:
            with self._giving_up_on_errors():
                self._observer.before_update()

    def _follow(self, model: nn.Module) -> None:
        if self._observer is not None:
            with self._giving_up_on_errors():
                self._observer.follow(model)

    @contextmanager
    def _giving_up_on_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            # It failed on every process alike: none goes on to wait for the others' counts.
            observer, self._observer = self._observer, None
            if observer is not None:
                with suppress(Exception):
                    # What was queued may still write to the masks, whose memory the training gets back now.
                    observer.before_update()
            logger.warning("sparsity-monitor observes no more because of an error; training goes on")
            raise

    def _observe(self, step: int) -> None:
        if self._observer is None:
            return
        # Beside the training, what is ready by now is the observation before this one: in every process alike.
        self._collect()
        with self._giving_up_on_errors():
            self._observer.start(step)
        self._pace.start(step)
        if not self._observer.beside_training:
            self._collect()

    def _observe_the_last_step(self, args: TrainingArguments, state: TrainerState) -> None:
        if self._observer is None:
            return
        # The best model's weights are those of an earlier step.
        exchanged = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if self._observer.last_step < state.global_step and not exchanged:
            self._observe(state.global_step)
        self._collect()

    def _collect(self) -> None:
        """Take what was started and not taken yet: report it, and judge it."""
        if self._observer is None:
            return
        with self._giving_up_on_errors():
            finished = self._observer.collect()
        for observation in finished:
            self.last_observation = observation
            # First what every process does alike.
            self._pace.see(observation)
            self.last_verdict = self._dense_watch.see(observation)
            if self._reporter is not None:
                self._reporter.report(observation)
