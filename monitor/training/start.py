"""Starts a run as its settings say: finds the base, makes the observer, announces the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn
from transformers import TrainerState, TrainingArguments

from monitor.observe.masks.references import ReferenceMask
from monitor.observe.observer import UpdateObserver
from monitor.observe.ranks import Ranks, join_ranks
from monitor.report.registration import new_run_id, registration_message
from monitor.report.reporter import Reporter, start_anywhere
from monitor.training.base_source import Base, find_base
from monitor.training.directories import output_directory, own_directory
from monitor.training.observed_run import ObservedRun
from monitor.training.published import published_about
from monitor.training.resume import RunIdentity, measured_as, restore_touched
from monitor.training.settings import RunSettings
from monitor.training.trainer import merges_adapters, warn_of_moved_weights

_REGISTER_SECONDS = 15.0


def start_run(
    settings: RunSettings,
    model: nn.Module,
    args: TrainingArguments,
    state: TrainerState,
    *,
    references: Mapping[str, ReferenceMask],
    reference_model: nn.Module | None,
    unfinished_base: str | None,
) -> ObservedRun:
    """Return the run of a training that begins, and write its identity into the trainer's state.

    Args:
        references: name → reference mask.
        reference_model: a frozen model that the trainer holds.
        unfinished_base: fingerprint of the base of an earlier training of this model that has not ended.

    Raises:
        BaseMismatchError: the base cannot be read, or is not the one of the run that is resumed.
        ConfigurationError: the run that is resumed was measured otherwise.
        SpoolError, ReportingError: see `start_reporter`.
    """
    ranks = join_ranks(next(model.parameters()).device)
    resumed = state.global_step > 0
    earlier = RunIdentity.of(state) if resumed else None
    if earlier is not None:
        # First, because another `include` asks more of the base than it may have.
        earlier.check_settings(settings)
    base = ranks.all_or_none(partial(find_base, model, settings.base, reference_model, ranks, resumed=resumed))
    own_copy = base.weights is None and merges_adapters(args, model)
    measuring = replace(settings, base_mode="device") if own_copy and settings.base_mode == "auto" else settings
    observer = make_observer(measuring, model, base=base, references=references, step=state.global_step, ranks=ranks)
    moved = base.weights is None and unfinished_base not in (None, observer.base_fingerprint)
    if moved and state.is_world_process_zero:
        warn_of_moved_weights()
    if earlier is not None:
        earlier.check_base(observer, base.source)
    if resumed:
        restore_touched(observer, args, state)
    start = partial(start_reporter, settings, observer, model, args, earlier=earlier, base_source=base.source)
    reporter = ranks.all_or_none(lambda: start() if state.is_world_process_zero else None)
    if reporter is not None:
        key = reporter.key
        RunIdentity(key.run_id, key.attempt, observer.base_fingerprint, measured_as(settings)).write(state)
    return ObservedRun(
        settings, observer, reporter, writes_log=state.is_world_process_zero, published=published_about(args)
    )


def make_observer(
    settings: RunSettings,
    model: nn.Module,
    *,
    base: Base,
    references: Mapping[str, ReferenceMask],
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
    settings: RunSettings,
    observer: UpdateObserver,
    model: nn.Module,
    args: TrainingArguments,
    *,
    earlier: RunIdentity | None,
    base_source: str,
) -> Reporter:
    """Announce the run, and return its reporter.

    Args:
        earlier: the attempt that is resumed; None for a new run.
        base_source: what the base came from, for people.

    Raises:
        SpoolError: the run's directory cannot be written, and was given or is `strict`; or another training process
            uses it.
        ReportingError: `strict` is set, and the service does not answer or refuses the run.
    """
    name = settings.run_name or args.run_name or output_directory(args).name
    run_id = settings.run_id or (earlier.run_id if earlier else new_run_id(name))
    registration = registration_message(
        observer,
        run_id=run_id,
        name=name,
        model=str(getattr(model, "name_or_path", "") or type(model).__name__),
        base_source=base_source,
        labels=settings.labels,
        attempt=earlier.attempt + 1 if earlier else 1,
        resumed_from_step=observer.last_step,
    )
    directory = Path(settings.directory or output_directory(args) / own_directory(args))
    # A directory that was asked for is a setting that cannot work; the trainer's own may be one that is never written.
    start = Reporter if settings.strict or settings.directory else start_anywhere
    reporter = start(registration, directory, settings.target, max_bytes=settings.spool_max_bytes)
    if settings.strict and settings.target is not None:
        try:
            reporter.wait_until_registered(_REGISTER_SECONDS)
        except BaseException:
            reporter.close(timeout=0.0)
            raise
    return reporter
