"""Starts a run as its settings say: finds the base, makes the observer, announces the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn
from transformers import TrainerState, TrainingArguments

from monitor.observe.masks.references import ReferenceMask
from monitor.observe.masks.structural import StructuralMask
from monitor.observe.observer import UpdateObserver
from monitor.observe.ranks import Ranks, join_ranks
from monitor.report.registration import registration_message
from monitor.report.reporter import Reporter, start_anywhere
from monitor.report.spool import AttemptKey
from monitor.training.base_source import Base, find_base
from monitor.training.directories import output_directory, own_directory
from monitor.training.lineage import (
    Experiment,
    Lineage,
    Place,
    attempts_known,
    learning_rate,
    new_lineage,
    resumed_lineage,
    unnamed_lineage,
)
from monitor.training.observed_run import ObservedRun
from monitor.training.published import published_about
from monitor.training.resume import RunIdentity, measured_as, restore_touched
from monitor.training.settings import RunSettings
from monitor.training.synchronisation import Synchronisations
from monitor.training.told import start_lines, tell
from monitor.training.trainer import merges_adapters, warn_of_moved_weights
from monitor.training.trials import find_trial

logger = logging.getLogger(__name__)

_REGISTER_SECONDS = 15.0


def start_run(
    settings: RunSettings,
    model: nn.Module,
    args: TrainingArguments,
    state: TrainerState,
    *,
    references: Mapping[str, ReferenceMask | StructuralMask],
    reference_model: nn.Module | None,
    unfinished_base: str | None,
    trial_number: int | None,
    earlier_synchronisations: Synchronisations,
) -> ObservedRun:
    """Return the run of a training that begins, and write its identity into the trainer's state.

    Args:
        references: name → reference mask.
        reference_model: a frozen model that the trainer holds.
        unfinished_base: fingerprint of the base of an earlier training of this model that has not ended.
        trial_number: of a hyperparameter search, where the trainer is known; see `find_trial`.
        earlier_synchronisations: of the callback's training before this one.

    Raises:
        BaseMismatchError: the base cannot be read, or is not the one of the run that is resumed.
        ConfigurationError: the run that is resumed was measured otherwise.
        SpoolError, ReportingError: see `start_reporter`.
    """
    ranks = join_ranks(next(model.parameters()).device)
    resumed = state.global_step > 0
    earlier = RunIdentity.of(state) if resumed else None
    beginning = ranks.all_or_none(
        lambda: begin(settings, args, state, earlier, trial_number) if state.is_world_process_zero else None
    )
    # The first process alone looks at the directories: the others may not see them, or see others.
    is_resume = bool(ranks.anywhere({"resume"} if beginning and beginning.lineage.is_resume else (), ["resume"]))
    if earlier is not None and is_resume:
        # First, because another `include` asks more of the base than it may have.
        earlier.check_settings(settings)
    base = ranks.all_or_none(partial(find_base, model, settings.base, reference_model, ranks, resumed=resumed))
    own_copy = base.weights is None and merges_adapters(args, model)
    measuring = replace(settings, base_mode="device") if own_copy and settings.base_mode == "auto" else settings
    observer = make_observer(measuring, model, base=base, references=references, step=state.global_step, ranks=ranks)
    moved = base.weights is None and unfinished_base not in (None, observer.base_fingerprint)
    if moved and state.is_world_process_zero:
        warn_of_moved_weights()
    if earlier is not None and (is_resume or earlier.is_measured_against(settings)):
        earlier.check_base(observer, base.source)
    if resumed:
        restore_touched(observer, args, state)

    def start() -> Reporter | None:
        if beginning is None:
            return None
        return start_reporter(
            beginning, settings, observer, model, base_source=base.source, planned_steps=max(state.max_steps, 0)
        )

    reporter = ranks.all_or_none(start)
    if reporter is not None and beginning is not None:
        _identity(reporter.key, beginning, settings, args, observer).write(state)
    writes_log = state.is_world_process_zero
    return ObservedRun(
        settings,
        observer,
        reporter,
        writes_log=writes_log,
        published=published_about(args),
        synchronisations=Synchronisations.of(
            args, state.global_step, earlier=earlier_synchronisations, writes_log=writes_log
        ),
    )


@dataclass(frozen=True)
class Beginning:
    """What a training begins as.

    Attributes:
        lineage: the run that it is of.
        labels: of the run.
        directory: where its spool and its mask are kept.
    """

    lineage: Lineage
    labels: Mapping[str, str]
    directory: Path


def begin(
    settings: RunSettings,
    args: TrainingArguments,
    state: TrainerState,
    earlier: RunIdentity | None,
    trial_number: int | None,
) -> Beginning:
    """Decide what a training begins as, and say so where it goes on from a checkpoint or starts a run again."""
    directory = Path(settings.directory or output_directory(args) / own_directory(args))
    experiment = Experiment.of(settings, args)
    labels: Mapping[str, str] = settings.labels or {}
    if trial := find_trial(state, directory, trial_number):
        directory, labels, experiment = trial.directory, trial.labelled(labels), experiment.as_trial(trial)
    if state.global_step == 0:
        known = attempts_known(directory, experiment.run_id) if experiment.run_id else 0
        lineage = new_lineage(experiment, known)
    elif earlier is None:
        lineage = unnamed_lineage(experiment, state.global_step)
    else:
        place = Place.of(settings, args, state, earlier)
        lineage = resumed_lineage(experiment, earlier, state.global_step, place)
    if lineage.is_surprising:
        logger.warning("sparsity-monitor: %s.", lineage.words)
    elif lineage.words:
        tell([lineage.words], quiet=settings.quiet)
    return Beginning(lineage, labels, directory)


def _identity(
    key: AttemptKey, beginning: Beginning, settings: RunSettings, args: TrainingArguments, observer: UpdateObserver
) -> RunIdentity:
    return RunIdentity(
        key.run_id,
        key.attempt,
        observer.base_fingerprint,
        measured_as(settings),
        output_directory=str(output_directory(args).resolve()),
        name=beginning.lineage.name,
        labels=dict(settings.labels or {}),
        learning_rate=learning_rate(args),
        parent_run=beginning.lineage.parent_run,
        parent_step=beginning.lineage.parent_step,
    )


def make_observer(
    settings: RunSettings,
    model: nn.Module,
    *,
    base: Base,
    references: Mapping[str, ReferenceMask | StructuralMask],
    step: int,
    ranks: Ranks,
) -> UpdateObserver:
    """Return the observer of a model whose weights are those of `step`."""
    return UpdateObserver(
        model,
        base=base.weights,
        references=references,
        criterion=settings.criterion,
        tolerances=settings.tolerances,
        visible_dtype=settings.visible_dtype,
        include=settings.include,
        exclude=settings.exclude,
        step_masks=settings.step_masks,
        base_mode=settings.base_mode,
        first_step=step,
        ranks=ranks,
    )


def start_reporter(
    beginning: Beginning,
    settings: RunSettings,
    observer: UpdateObserver,
    model: nn.Module,
    *,
    base_source: str,
    planned_steps: int,
) -> Reporter:
    """Announce the run, and return its reporter.

    Args:
        base_source: what the base came from, for people.

    Raises:
        SpoolError: the run's directory cannot be written, and was given or is `strict`; or another training process
            uses it.
        ReportingError: `strict` is set, and the service does not answer or refuses the run.
    """
    lineage = beginning.lineage
    registration = registration_message(
        observer,
        run_id=lineage.run_id,
        name=lineage.name,
        model=str(getattr(model, "name_or_path", "") or type(model).__name__),
        base_source=base_source,
        labels=beginning.labels,
        attempt=lineage.attempt,
        resumed_from_step=observer.last_step,
        parent=(lineage.parent_run, lineage.parent_step) if lineage.parent_run else None,
        planned_steps=planned_steps,
    )
    # A directory that was asked for is a setting that cannot work; the trainer's own may be one that is never written.
    start = Reporter if settings.strict or settings.directory else start_anywhere
    reporter = start(registration, beginning.directory, settings.target, max_bytes=settings.spool_max_bytes)
    if settings.strict and settings.target is not None:
        try:
            reporter.wait_until_registered(_REGISTER_SECONDS)
        except BaseException:
            reporter.close(timeout=0.0)
            raise
    tell(start_lines(settings, observer, reporter, lineage.name, base_source), quiet=settings.quiet)
    return reporter
