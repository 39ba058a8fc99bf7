"""Starts a run as its settings say: finds the base, makes the observer, announces the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from monitor.observe.masks.references import ReferenceMask
from monitor.observe.masks.structural import StructuralMask
from monitor.observe.observer import UpdateObserver
from monitor.observe.ranks import Ranks
from monitor.report.messages.registration import registration_message
from monitor.report.reporter import Reporter, start_anywhere
from monitor.report.spool.attempt import AttemptKey
from monitor.training.base_source import Base, find_base
from monitor.training.lineage import (
    Experiment,
    Lineage,
    Place,
    attempts_known,
    new_lineage,
    resumed_lineage,
    unnamed_lineage,
)
from monitor.training.observed_run import ObservedRun
from monitor.training.resume import RunIdentity, measured_as, restore_touched
from monitor.training.settings import RunSettings
from monitor.training.surroundings import Surroundings
from monitor.training.told import start_lines, tell

logger = logging.getLogger(__name__)

_REGISTER_SECONDS = 15.0


def start_run(
    settings: RunSettings,
    model: nn.Module,
    surroundings: Surroundings,
    ranks: Ranks,
    *,
    references: Mapping[str, ReferenceMask | StructuralMask],
    reference_model: nn.Module | None = None,
    unfinished_base: str | None = None,
) -> ObservedRun:
    """Return the run of a training that begins, whose identity is given to its surroundings.

    Args:
        surroundings: what it has to know of the training.
        ranks: the processes that train together.
        references: name → reference mask.
        reference_model: a frozen model that the trainer holds.
        unfinished_base: fingerprint of the base of an earlier training of this model that has not ended.

    Raises:
        BaseMismatchError: the base cannot be read, or is not the one of the run that is resumed.
        ConfigurationError: the run that is resumed was measured otherwise.
        SpoolError, ReportingError: see `start_reporter`.
    """
    resumed = surroundings.resumed
    earlier = None if resumed is None else resumed.identity
    beginning = ranks.all_or_none(lambda: begin(settings, surroundings) if surroundings.is_first else None)
    # The first process alone looks at the directories: the others may not see them, or see others.
    is_resume = bool(ranks.anywhere({"resume"} if beginning and beginning.lineage.is_resume else (), ["resume"]))
    if earlier is not None and is_resume:
        # First, because another `include` asks more of the base than it may have.
        earlier.check_settings(settings)
    base = ranks.all_or_none(
        partial(find_base, model, settings.base, reference_model, ranks, resumed=resumed is not None)
    )
    own_copy = base.weights is None and surroundings.merges_adapters
    measuring = replace(settings, base_mode="device") if own_copy and settings.base_mode == "auto" else settings
    observer = make_observer(measuring, model, base=base, references=references, step=surroundings.step, ranks=ranks)
    moved = base.weights is None and unfinished_base not in (None, observer.base_fingerprint)
    if moved and surroundings.is_first:
        _warn_of_moved_weights()
    if earlier is not None and (is_resume or earlier.is_measured_against(settings)):
        earlier.check_base(observer, base.source)
    if resumed is not None:
        restore_touched(observer, surroundings.checkpoint, surroundings.output, resumed, is_first=surroundings.is_first)

    def start() -> Reporter | None:
        if beginning is None:
            return None
        return start_reporter(
            beginning, settings, observer, model, base_source=base.source, planned_steps=surroundings.planned_steps
        )

    reporter = ranks.all_or_none(start)
    if reporter is not None and beginning is not None:
        surroundings.identify(_identity(reporter.key, beginning, settings, surroundings, observer))
    return ObservedRun(
        settings,
        observer,
        reporter,
        writes_log=surroundings.is_first,
        published=surroundings.published,
        synchronisations=surroundings.synchronisations,
        put_last=surroundings.put_last,
    )


def _warn_of_moved_weights() -> None:
    logger.warning(
        "sparsity-monitor: training starts again from weights that it has already moved, and updates are measured "
        "against them as they are now. Give the original weights as `base`."
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


def begin(settings: RunSettings, surroundings: Surroundings) -> Beginning:
    """Decide what a training begins as, and say so where it goes on from a checkpoint or starts a run again."""
    directory = Path(settings.directory or surroundings.output / surroundings.own_directory)
    experiment = Experiment.of(settings, surroundings)
    labels: Mapping[str, str] = settings.labels or {}
    if trial := surroundings.trial(directory):
        directory, labels, experiment = trial.directory, trial.labelled(labels), experiment.as_trial(trial)
    if (resumed := surroundings.resumed) is None:
        known = attempts_known(directory, experiment.run_id) if experiment.run_id else 0
        lineage = new_lineage(experiment, known)
    elif (earlier := resumed.identity) is None:
        lineage = unnamed_lineage(experiment, resumed.step)
    else:
        lineage = resumed_lineage(experiment, earlier, resumed.step, Place.of(settings, surroundings, earlier))
    if lineage.is_surprising:
        logger.warning("sparsity-monitor: %s.", lineage.words)
    elif lineage.words:
        tell([lineage.words], quiet=settings.quiet)
    return Beginning(lineage, labels, directory)


def _identity(
    key: AttemptKey,
    beginning: Beginning,
    settings: RunSettings,
    surroundings: Surroundings,
    observer: UpdateObserver,
) -> RunIdentity:
    return RunIdentity(
        key.run_id,
        key.attempt,
        observer.base_fingerprint,
        measured_as(settings),
        output_directory=str(surroundings.output.resolve()),
        name=beginning.lineage.name,
        labels=dict(settings.labels or {}),
        learning_rate=surroundings.learning_rate,
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
