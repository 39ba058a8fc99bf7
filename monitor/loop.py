"""watch: one line around a training loop of one's own, and one line in it.

It does for such a loop what SparsityCallback does for a Trainer's, by the same parts, and needs no transformers.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from torch import nn

from monitor.errors import ConfigurationError
from monitor.observe.arguments import check_model
from monitor.observe.observation import Observation
from monitor.observe.ranks import join_ranks
from monitor.report.messages.ending import COMPLETED, reason_of, stopped
from monitor.training.arguments import takes
from monitor.training.loop_settings import LoopSettings
from monitor.training.on_dense import ON_DENSE
from monitor.training.optimizer_steps import OptimizerSteps
from monitor.training.own_calls import OwnCalls
from monitor.training.references import open_references
from monitor.training.resume import RunIdentity, Saved, resumed_from, write_state
from monitor.training.served import Fingerprints, ServedWeights
from monitor.training.start import start_run
from monitor.training.surroundings import Surroundings
from monitor.verdict import Verdict

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

# What stands around a model under another name, and forwards to it.
_WRAPPERS = {"DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}


class Watch:
    """A training loop that is observed; `monitor.watch` makes one, when the training begins.

    It is left as a file is, by the end of its `with` block: a block that ends is a training that is finished, one that
    is left by an exception, Ctrl-C among them, a training that has failed with it. After the start, nothing that goes
    wrong with the monitor is raised into the training, unless `strict`.

    On several processes each one has its own, and all of them call `step`, `save`, `fingerprint` and `served` with the
    same arguments, in the same order. The first one reports.
    """

    def __init__(self, model: nn.Module, settings: LoopSettings) -> None:
        """Take the base, and announce the run."""
        check_model(model)
        self._settings = settings
        self._model = _inner(model)
        self._identity: RunIdentity | None = None
        self._should_stop = False
        self._is_announced = self._is_expected = False
        self._told_of_steps = False
        references = open_references(settings.references or {})
        ranks = join_ranks(next(model.parameters()).device, settings.process_group)
        given = settings.resume_from
        surroundings = Surroundings(
            output=Path(settings.output_dir),
            is_first=ranks.rank == 0,
            identify=self._take_identity,
            learning_rate=settings.learning_rate,
            planned_steps=settings.planned_steps,
            resumed=resumed_from(given, ranks),
            checkpoint=Path(given) if isinstance(given, str | Path) else None,
            put_last="Call watch.step() after all that changes weights in a step.",
        )
        if surroundings.is_first:
            # What becomes of a run whose directory cannot be written is decided where its spool is made.
            with suppress(OSError):
                surroundings.output.mkdir(parents=True, exist_ok=True)
        self._step = surroundings.step
        self._is_first = surroundings.is_first
        self._own_calls = OwnCalls(strict=settings.strict, says=self._is_first)
        self._run = start_run(settings, self._model, surroundings, ranks, references=references)
        self._optimizer_steps = OptimizerSteps(self._before_update)

    @classmethod
    @takes(LoopSettings)
    def check(cls, settings: LoopSettings) -> None:
        """Raise now what `monitor.watch` would raise about its settings, where it can be called only later.

        As in a framework that has loaded its weights only at the first step: hours may lie between.

        Raises:
            ConfigurationError: a setting has a value that cannot work.
            MaskFileError: the file of a reference mask is not one that holds a mask.
            TypeError: a setting is unknown.
        """
        open_references(settings.references or {})

    @property
    def run_id(self) -> str | None:
        """Identity of the run; None in every process but the first, unless it was given."""
        return self._run.run_id

    @property
    def last_observation(self) -> Observation | None:
        """The latest observation, the same in every process; None before the first. On CUDA it is one step behind."""
        return self._run.last_observation

    def step(self, step: int | None = None, logs: Mapping[str, object] | None = None) -> bool:
        """Observe the weights after an optimizer step, before anything else is done to them.

        Args:
            step: optimizer steps that the weights have made, from 1 on, and after a resume from where it goes on. By
                default one more than the last, as where a framework's hook is not told the number.
            logs: what is reported beside the observation, name → number, such as {"loss": 0.3}. Tensors of one element
                are read without waiting for the device.

        Returns:
            whether the loop is to end, as `on_dense` says: the same in every process, and True from then on.
        """
        if not self._run.is_elsewhere:
            with self._never_disturbing("training goes on"):
                self._observe(self._step + 1 if step is None else step, logs)
        return self._should_stop

    def save(self, directory: str | Path) -> None:
        """Write what a resume needs into a checkpoint, once the weights are saved there: `resume_from` reads it.

        Where safetensors files of other weights than the model's lie there, as of a moving average, these are counted.

        Args:
            directory: the checkpoint's, which is made if it is not there; the same in every process.
        """
        if self._run.is_elsewhere:
            return
        with self._never_disturbing("training goes on"):
            checkpoint = Path(directory)
            if self._is_first:
                with suppress(OSError):
                    checkpoint.mkdir(parents=True, exist_ok=True)
            self._run.checkpoint(checkpoint, self._step)
            self._run.expect_changes()
            # Last, because the other processes are waited for above, and do not fail with this one.
            if self._is_first and self._identity is not None:
                write_state(checkpoint, Saved(self._step, self._identity))

    def fingerprint(self) -> dict[str, int] | None:
        """Return `monitor.fingerprint` of the weights as they are now, and keep them as those of the present step.

        Call it when weights are handed to an engine that goes on beside the training, so that `served` can be asked
        later, with this step; and before the first step, so that an engine that never got any weights is told as such.
        The last 64 steps are kept. It waits for the device, and reads each weight once.

        Returns:
            name → number of each parameter, the same in every process; None where they cannot be told.
        """
        return self._own_calls.answer(partial(self._of_present_step, "fingerprint", self._run.fingerprint))

    def served(self, fingerprints: Fingerprints, step: int | None = None) -> ServedWeights | None:
        """Compare what an engine serves with the weights that train; where it serves others, it is said in the log.

        Reported beside the observations are `served_step`, where it is known, and `served_differing_groups`, which is
        0 where all is well. Call it once the engine has taken the weights, before the next optimizer step:

            watch.served(llm.collective_rpc(fingerprint_of_this_rank))

        where that function returns `monitor.fingerprint(model.named_parameters(), slices=…)` of the model of a rank.

        Args:
            fingerprints: of the engine's weights: name → number; of several ranks, a list with those of each. Only what
                the first process is given counts.
            step: the step whose weights are to be served, of those for which `fingerprint` or this was called; None for
                the present one, whose weights are read then.

        Returns:
            the step that is served, the groups that differ, and what could not be compared, the same in every process;
            None where it cannot be told, which is said.
        """
        served = partial(self._run.served, fingerprints, step)
        return self._own_calls.answer(served if step is not None else partial(self._of_present_step, "served", served))

    def _of_present_step(self, method: str, answer: Callable[[], Answer | None]) -> Answer | None:
        if self._optimizer_steps.announces_any(self._model):
            raise ConfigurationError(
                f"watch.{method}() was called after an optimizer step that watch.step() was not told of, so that the "
                "step of these weights is not known. Call it between watch.step() and the next optimizer step."
            )
        return answer()

    def __enter__(self) -> Watch:
        """Return itself: the training began when it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Report how the training has ended, and write the mask of its weights if it is finished."""
        self._optimizer_steps.close()
        if self._run.is_elsewhere:
            return
        if error is None:
            with self._never_disturbing("the training is over"):
                self._finish()
            return
        try:
            self._run.fail(reason_of(error))
        except Exception:
            logger.exception("an error in sparsity-monitor; the training's own exception goes on")

    def _finish(self) -> None:
        is_stopped = self._should_stop and self._step != self._settings.planned_steps
        self._run.finish(self._step, best=None, ending=stopped(ON_DENSE) if is_stopped else COMPLETED)

    def _take_identity(self, identity: RunIdentity) -> None:
        self._identity = identity

    def _observe(self, step: int, logs: Mapping[str, object] | None) -> None:
        if not self._rises_to(step):
            return
        is_last = self._step == self._settings.planned_steps
        try:
            # What has begun to train and was written to already cannot be measured, and is said to be lost.
            self._run.follow(self._model)
            self._run.end_step(self._step, must_observe=is_last, ends=is_last)
            self._let_the_unannounced_wait()
            if logs:
                self._run.log(self._step, logs)
        finally:
            # Even if observing failed: every process must answer the observation before, as the others do.
            self._run.answer_dense_updates(_LoopAnswer(self._stop, self._step))

    def _rises_to(self, step: int) -> bool:
        try:
            number = operator.index(step)
        except TypeError:
            number = -1
        if number > self._step:
            self._step = number
            return True
        if self._is_first and not self._told_of_steps:
            self._told_of_steps = True
            logger.warning(
                "sparsity-monitor: watch.step(%r) is not observed, because it does not come after step %d. Expected "
                "the number of optimizer steps made so far, 1 after the first: where a loop counts from 0, call "
                "watch.step(step + 1).",
                step,
                self._step,
            )
        return False

    def _let_the_unannounced_wait(self) -> None:
        """Read the weights before the training goes on, where it is not sure to say that it writes to them."""
        # As it was with the step that was made, so it will be with the next one.
        self._is_announced = self._optimizer_steps.announces_all(self._model)
        self._is_expected = False
        if not self._is_announced:
            self._run.let_updates_wait()
        if self._run.changes_come_late:
            self._run.expect_changes()

    def _before_update(self) -> None:
        if self._run.is_elsewhere:
            return
        with self._never_disturbing("training goes on"):
            self._run.let_updates_wait()
            # An optimizer for each parameter, as where they step within the backward pass, makes many steps of one.
            if self._is_expected:
                return
            self._is_expected = True
            if self._is_announced:
                # Otherwise, what has changed may be the work of an optimizer that was not announced.
                self._run.look_for_late_changes()
            self._run.follow(self._model)

    def _stop(self) -> None:
        self._should_stop = True

    @contextmanager
    def _never_disturbing(self, otherwise: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            if self._settings.strict:
                raise
            logger.exception("an error in sparsity-monitor; %s", otherwise)


class _LoopAnswer:
    """Answers dense updates in a loop of one's own, by what `step` returns."""

    def __init__(self, stop: Callable[[], None], step: int) -> None:
        self._stop, self._step = stop, step

    def stop(self) -> str:
        self._stop()
        return f"asks the loop to end after step {self._step}: watch.step() returns True from now on"

    def call(self, function: Callable[..., object], observation: Observation, verdict: Verdict) -> None:
        if function(step=self._step, observation=observation, verdict=verdict):
            self._stop()


@takes(LoopSettings)
def watch(model: nn.Module, settings: LoopSettings) -> Watch:
    """Observe a training loop of one's own: how sparse its weight updates are, and what it logs.

    with monitor.watch(model, "localhost:50051", run_name="ppo") as watch:
        for step, batch in enumerate(batches, start=1):
            loss = train_on(batch)
            optimizer.step()
            if watch.step(step, logs={"loss": loss}):
                break

    The weights of `model` are the base as they are now, so call it when they are loaded and on their device, and where
    the training shards or wraps the model, after that. On several processes, each one calls it. Weights of optimizers
    of torch are read beside the training on CUDA; where others write to them, the training waits for the reading.
    Settings that are not given are taken from the environment, as those of SparsityCallback.

    Returns:
        the observed loop, to be left with its training by `with`.

    Raises:
        ConfigurationError: a setting has a value that cannot work, or the run that is resumed was measured otherwise.
        BaseMismatchError: the base cannot be read, or is not the one of the run that is resumed.
        MaskFileError, MaskMismatchError: a reference mask cannot be read, or is not of this model.
        UnsupportedModelError: the model holds weights in a way that cannot be measured rightly.
        SpoolError, ReportingError: the run's directory cannot be written, or the service does not take the run, and the
            directory was given, or `strict`.
        TypeError: a setting is unknown.
    """
    return Watch(model, settings)


def _inner(model: nn.Module) -> nn.Module:
    while (name := _WRAPPERS.get(type(model).__name__)) is not None:
        model = getattr(model, name)
    return model
