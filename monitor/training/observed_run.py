"""One training under observation: what is measured is judged, reported, and answered when it is dense."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from torch import nn

from monitor.observe.comparison import Comparison
from monitor.observe.observation import Observation
from monitor.observe.observer import UpdateObserver
from monitor.report.messages.ending import COMPLETED, Ending
from monitor.report.messages.numbers import numbers_in
from monitor.report.reporter import Reporter
from monitor.report.spool.places import MASK_FILE, Elsewhere
from monitor.training.directories import touched_in
from monitor.training.earlier_mask import room_for_mask
from monitor.training.kept import compare_saved, describe_final, describe_saved
from monitor.training.mask_writer import MaskWriter
from monitor.training.on_dense import Answer, DenseWatch
from monitor.training.pace import Pace
from monitor.training.served import Fingerprints, ServedCheck, ServedWeights
from monitor.training.served_run import ServedRun
from monitor.training.settings import RunSettings
from monitor.training.synchronisation import Synchronisations
from monitor.training.told import end_lines, tell
from monitor.training.tracker_log import without_tracker_entries
from monitor.training.under_way import Training, under_way
from monitor.verdict import DenseThresholds, Verdict

logger = logging.getLogger(__name__)

# Among what the trainer logs, where weights that are kept differ from those that were observed.
SAVED_CHANGED = "saved_changed_weights"
_OF_ADAPTERS = "the matrices that adapters change, and what trains directly"


class ObservedRun:
    """Observes a training from its first step to its last.

    Every process of a parallel training has one, and observes; only the first one reports and writes to the log.
    Without an observer, as before a training begins and after an error, calls do nothing.

    Args:
        settings: as the user gave them.
        observer: measures the model.
        reporter: reports the run; None in every process but the first.
        writes_log: whether this process writes verdicts to the log.
        published: what is published of such trainings, for the verdicts' wording.
        synchronisations: when the trainer hands its weights over; None where it does not.
        put_last: what to do where weights are written to after they were observed.

    Attributes:
        synchronisations: the same.
        last_observation: the latest one that is complete, None before the first.
        last_verdict: what the latest observations mean, None while they are too few, the warm-up lasts, or it
            depends on weights that are lost.
        kept: how the weights that were saved last, or are left at the end, differ from the base; None before.
        changes_come_late: whether weights were seen to change between an observation and the next step.
        run_id: identity of the run; where nothing is reported, the one that was given.
        unfinished_base: fingerprint of the base until the training has ended.
    """

    def __init__(
        self,
        settings: RunSettings,
        observer: UpdateObserver | None = None,
        reporter: Reporter | None = None,
        *,
        writes_log: bool = True,
        published: str = "",
        synchronisations: Synchronisations | None = None,
        put_last: str = "",
    ) -> None:
        self.synchronisations = synchronisations or Synchronisations()
        self.last_observation: Observation | None = None
        self.last_verdict: Verdict | None = None
        self.kept: Comparison | None = None
        self.changes_come_late = False
        self.run_id = settings.run_id if reporter is None else reporter.key.run_id
        self.unfinished_base = None if observer is None else observer.base_fingerprint
        self._settings = settings
        self._observer = observer
        self._reporter = reporter
        # Asked where the spool is also when all is told.
        self._told_by = reporter
        self._served = ServedCheck(writes_log=writes_log)
        self._step = 0 if observer is None else observer.last_step
        self._masks = MaskWriter(Elsewhere() if reporter is None else reporter.elsewhere)
        self._process = os.getpid()
        self._writes_log = writes_log
        self._put_last = put_last
        self._said_that_others_are_saved = False
        self._observations = 0
        self._versions: int | None = None
        self._training: Training | None = None
        self._pace = Pace(settings.every, settings.max_overhead, self.synchronisations.offset(settings.every))
        self._dense_watch = DenseWatch(
            settings.on_dense,
            settings.dense_thresholds or DenseThresholds(),
            measured_as=f"{settings.criterion} in {settings.visible_dtype}",
            writes_log=writes_log,
            strict=settings.strict,
            trained=_OF_ADAPTERS if observer is not None and observer.measures_adapters else "",
            published=published,
        )

    @property
    def directory(self) -> Path | None:
        """Where spool and mask are kept; None where nothing is reported."""
        return None if self._told_by is None else self._told_by.directory

    @property
    def is_under_way(self) -> bool:
        """Whether a training is observed, or is yet to be reported as ended."""
        return self._observer is not None or self._reporter is not None

    @property
    def is_elsewhere(self) -> bool:
        """Whether the process that observes the training is another one, from which this one was forked."""
        return self.is_under_way and self._process != os.getpid()

    def let_updates_wait(self) -> None:
        """Let weights stay as they are until an observation that is under way has read them; the host goes on."""
        if self._observer is not None:
            with self._giving_up_on_errors(self._observer):
                self._observer.before_update()

    def expect_changes(self) -> None:
        """Let weights stay as they are until an observation has read them, and take changes from then on for known."""
        self.let_updates_wait()
        self._versions = None

    def look_for_late_changes(self) -> None:
        """Say, once, that weights were written between their observation and the next step, by a later callback."""
        if self._observer is None or self._versions is None:
            return
        # Looked at once: what is written from here on is the next step's.
        observed, self._versions = self._versions, None
        if observed == _versions(self._observer):
            return
        self.changes_come_late = True
        if self._writes_log:
            logger.warning(
                "sparsity-monitor: weights are changed after they were observed at step %d, as by a later callback, "
                "and observations are of the weights before. %s The update mask is of the weights at the end all the "
                "same.",
                self._observer.last_step,
                self._put_last,
            )

    def follow(self, model: nn.Module) -> None:
        """Measure the parameters that have become trainable, too, from before their first update."""
        if self._observer is not None:
            with self._giving_up_on_errors(self._observer):
                self._observer.follow(model)

    def end_step(self, step: int, *, must_observe: bool, ends: bool) -> None:
        """Observe the weights after a step if that is due, or `must_observe`; `ends`: it is the training's last."""
        self._step = step
        self.synchronisations.end_step(step, ends=ends)
        if self._training is not None:
            self._training.see_step(sys._getframe())
        if must_observe or self._pace.is_due(step):
            self.observe(step)
        else:
            # By now, an observation that was made beside the training is complete.
            self.collect()

    def observe(self, step: int) -> None:
        """Observe the weights after a step. On CUDA, the observation is collected later."""
        if self._observer is None:
            return
        # The one before is complete by now, in every process alike.
        self.collect()
        with self._giving_up_on_errors(self._observer):
            self._observer.start(step)
        self.synchronisations.start(step)
        self._versions = None if self.changes_come_late else _versions(self._observer)
        self._pace.start(step)
        if not self._observer.beside_training:
            self.collect()

    def collect(self) -> None:
        """Judge and report what was started and is not collected yet; waits for it."""
        if self._observer is None:
            return
        with self._giving_up_on_errors(self._observer):
            complete = self._observer.collect()
        self._report(complete)

    def _report(self, complete: Iterable[Observation]) -> None:
        for observation in map(self.synchronisations.see, complete):
            self.last_observation = observation
            self._observations += 1
            # First what every process does alike.
            self._pace.see(observation)
            self.last_verdict = self._dense_watch.see(observation)
            if self._reporter is not None:
                self._reporter.report(observation, self.last_verdict)

    @property
    def served_weights(self) -> ServedRun | None:
        """What engines serve of the weights; None where nothing is observed, or not in this process."""
        if self._observer is None or self.is_elsewhere:
            return None
        return ServedRun(self._observer, self._reporter, self._served)

    def fingerprint(self) -> dict[str, int] | None:
        """Return the fingerprints of the weights as they are now, and keep them; None where nothing is observed."""
        return None if (served := self.served_weights) is None else served.fingerprint(self._step)

    def served(self, fingerprints: Fingerprints, step: int | None) -> ServedWeights | None:
        """Compare what an engine serves with the weights of a step, None for those of now, and report it."""
        served = self.served_weights
        return None if served is None else served.compare(fingerprints, step, now=self._step)

    def answer_dense_updates(self, answer: Answer) -> None:
        """Do what the user asked for when updates are dense."""
        if self.last_observation is not None:
            self._dense_watch.answer(self.last_observation, self.last_verdict, answer)

    def log(self, step: int, logs: Mapping[str, object]) -> None:
        """Report what the trainer logs."""
        if self._reporter is not None:
            numbers = numbers_in(without_tracker_entries(logs))
            self._reporter.log(step, numbers)
            # What a GPU has yet to deliver is not waited for.
            self._dense_watch.remember({name: number for name, number in numbers.items() if isinstance(number, float)})

    def observe_unless_done(self, step: int) -> None:
        """Observe the weights after a step if they have not been, and wait for that."""
        if self._observer is not None and self._observer.last_step < step:
            self.observe(step)
        # If starting the last observation failed on one process, the others hear of it here, before they meet again.
        self.collect()

    def checkpoint(self, directory: Path, step: int) -> None:
        """Save with a checkpoint which weights were touched up to its step, and count what it holds."""
        # Not yet where a later callback asked for the checkpoint.
        self.observe_unless_done(step)
        if self._observer is None:
            return
        self._masks.save_touched(self._observer, directory)
        saved = compare_saved(self._observer, directory, step, writes_log=self._writes_log)
        if saved is None:
            return
        if not saved.as_observed and self.last_observation is not None:
            self._keep_mask_of(saved, self.last_observation, directory)
        self.kept = replace(saved, words={})

    def _keep_mask_of(self, saved: Comparison, observed: Observation, checkpoint: Path) -> None:
        path = touched_in(checkpoint) / MASK_FILE
        if self._observer is not None:
            # A hyperparameter search saves elsewhere, and a directory that is made here would be taken for its own.
            wanted = path if self._writes_log and os.path.isdir(checkpoint) else None
            path = self._masks.save_update_mask(self._observer, wanted, self.run_id or "", saved) or path
        if self._reporter is not None:
            self._reporter.log(saved.step, {SAVED_CHANGED: int(saved.changed.sum())})
        if self._writes_log:
            # Once is a warning; it will be so at each checkpoint.
            level = logging.INFO if self._said_that_others_are_saved else logging.WARNING
            self._said_that_others_are_saved = True
            logger.log(level, "sparsity-monitor: %s.", describe_saved(saved, observed, path))

    def look_after(self, training: Training) -> None:
        """Have the run ended where its training is left by an exception that somebody catches."""
        self._training = training
        if self._reporter is not None:
            is_alone = self._observer is None or self._observer.ranks.world == 1
            under_way.add(training, self, self._reporter, is_alone=is_alone)

    def finish(self, step: int, *, best: int | None, ending: Ending = COMPLETED) -> None:
        """Write the mask of the weights that are left, and report how the training has ended.

        Args:
            step: the last one.
            ending: how it ended.
            best: the step whose weights the Trainer has loaded at the end; None for those of the last one.
        """
        try:
            if best is None:
                self.observe_unless_done(step)
            self.collect()
            if self._observer is not None:
                self._keep_final(self._observer, step if best is None else best)
        finally:
            if self._reporter is not None:
                self._reporter.finish(step, ending=ending)
            self._close_reporter()
            self._observer = None
            self.unfinished_base = None

    def _keep_final(self, observer: UpdateObserver, step: int) -> None:
        final = observer.compare(step)
        if self._settings.save_mask:
            run_id = self.run_id or ""
            path = None if self.directory is None else room_for_mask(self.directory / MASK_FILE, run_id)
            self._masks.save_update_mask(observer, path, run_id, final)
        self.kept = replace(final, words={})
        differs = self.last_observation is not None and not final.as_observed
        if differs and self._reporter is not None:
            self._reporter.log(step, {SAVED_CHANGED: int(final.changed.sum())})
        if self._writes_log:
            level = logging.WARNING if differs and step == observer.last_step else logging.INFO
            logger.log(level, "sparsity-monitor: %s.", describe_final(final, self.last_observation))

    def fail(self, reason: str) -> None:
        """End a training that raised, without waiting for the delivery: the exception is on its way.

        Args:
            reason: the exception's own words.
        """
        try:
            self._collect_alone()
        finally:
            reporter, self._reporter = self._reporter, None
            if reporter is not None:
                reporter.fail(reason)
                under_way.remove(reporter)
                self._tell_end(reporter, delivered=None)

    def abandon(self) -> None:
        """End a training that was left without its end, as with auto_find_batch_size after an out-of-memory error."""
        try:
            self._collect_alone()
        except Exception:
            logger.exception("the last observation of the training before is lost; training goes on")
        if self._reporter is not None:
            self._reporter.finish(step=0, failure="training was started again before it had ended")
            self._close_reporter()
        self.last_observation = None
        self.last_verdict = None
        self.kept = None

    def _collect_alone(self) -> None:
        """Report what is complete, and observe no more."""
        observer, self._observer = self._observer, None
        # Of several processes, only this one may have raised, and the others' counts would never come.
        if observer is not None and observer.ranks.world == 1:
            self._report(observer.collect())

    def _close_reporter(self) -> None:
        reporter, self._reporter = self._reporter, None
        if reporter is None:
            return
        under_way.remove(reporter)
        delivered = reporter.close()
        self._tell_end(reporter, delivered=delivered)
        if not delivered and (self._settings.target is not None or reporter.broke_off):
            logger.warning("sparsity-monitor: %s", reporter.why_undelivered())

    def _tell_end(self, reporter: Reporter, *, delivered: bool | None) -> None:
        lines = end_lines(self._settings, reporter, self._observations, self.last_observation, delivered=delivered)
        tell(lines, quiet=self._settings.quiet)

    @contextmanager
    def _giving_up_on_errors(self, observer: UpdateObserver) -> Iterator[None]:
        try:
            yield
        except Exception:
            # It failed on every process alike: none goes on to wait for the others' counts.
            self._observer = None
            with suppress(Exception):
                # What was queued may still write to the masks, whose memory the training gets back now.
                observer.before_update()
            logger.warning("sparsity-monitor observes no more because of an error; training goes on")
            raise


def _versions(observer: UpdateObserver) -> int:
    """Return a number that rises with every write to the weights, but for those through `.data`."""
    return sum(weights.source._version for weights in observer.measured)
