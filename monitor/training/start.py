"""Starts observer and reporter of a run as its settings say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainingArguments

from monitor.errors import ConfigurationError, ReportingError
from monitor.observe.masks.file import MaskFile
from monitor.observe.masks.mask import UpdateMask
from monitor.observe.masks.references import ReferenceMask
from monitor.observe.observer import UpdateObserver
from monitor.observe.ranks import Ranks
from monitor.report.registration import new_run_id, registration_message
from monitor.report.reporter import Reporter
from monitor.training.settings import RunSettings
from monitor.training.trainer import Base, own_directory

_REGISTER_SECONDS = 15.0


def open_references(given: object) -> dict[str, ReferenceMask]:
    """Return reference masks by name. Of those that are files, the weights' bits are read when training starts.

    Raises:
        ConfigurationError: they have no names, or one is neither a mask nor a path.
        MaskFileError: a file cannot be read.
    """
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"references is {given!r}; expected {{name: mask file or UpdateMask}}.")
    return {name: _open_reference(name, mask) for name, mask in given.items()}


def _open_reference(name: object, mask: object) -> ReferenceMask:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"references has the name {name!r}; expected a text for metrics to be labelled with.")
    if isinstance(mask, UpdateMask | MaskFile):
        return mask
    if isinstance(mask, str | Path):
        return MaskFile(mask)
    raise ConfigurationError(f"references[{name!r}] is {mask!r}; expected an UpdateMask or the path of its file.")


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
        base=base,
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
    known: Mapping[str, Any],
    base_source: str,
) -> Reporter:
    """Announce the run, and return its reporter.

    Args:
        known: identity of the run that is resumed; empty for a new one.
        base_source: where the base is from.

    Raises:
        SpoolError: the run's directory cannot be written, or another training process uses it.
        ReportingError: `strict` is set, and the service does not answer or refuses the run.
    """
    output = Path(args.output_dir or ".")
    name = settings.run_name or args.run_name or output.name
    registration = registration_message(
        observer,
        run_id=settings.run_id or known.get("run_id") or new_run_id(name),
        name=name,
        model=str(getattr(model, "name_or_path", "") or type(model).__name__),
        base_source=base_source,
        labels=settings.labels,
        attempt=known.get("attempt", 0) + 1,
        resumed_from_step=observer.last_step,
    )
    directory = settings.directory or output / own_directory(args)
    reporter = Reporter(registration, directory, settings.target, max_bytes=settings.spool_max_bytes)
    if settings.strict and settings.target is not None:
        try:
            reporter.wait_until_registered(_REGISTER_SECONDS)
        except ReportingError:
            reporter.close(timeout=0.0)
            raise
    return reporter
