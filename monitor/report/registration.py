"""What a run tells the service about itself before its first observation."""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from monitor.errors import ConfigurationError
from monitor.report.conversion import criterion_message, group_messages, reference_messages
from monitor.report.shell import shown
from monitor.version import __version__
from monitor.wire import monitor_pb2 as pb

if TYPE_CHECKING:
    from monitor.observe.observer import UpdateObserver

_LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "deepspeed")


def new_run_id(name: str) -> str:
    """Return an identity that nobody else has, starting with the run's name.

    >>> new_run_id("GRPO on GSM8K").rpartition("-")[0]
    'grpo-on-gsm8k'
    """
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60]
    return f"{readable or 'run'}-{uuid.uuid4().hex[:8]}"


def check_run_id(run_id: str) -> str:
    """Return a run id that a service takes.

    Raises:
        ConfigurationError: it is none.
    """
    if not run_id.strip() or not run_id.isprintable() or "/" in run_id or run_id in (".", ".."):
        raise ConfigurationError(f"run_id is {run_id!r}; expected printable characters without '/'.")
    return run_id


def registration_message(
    observer: UpdateObserver,
    *,
    run_id: str,
    name: str,
    model: str = "",
    base_source: str = "initial weights",
    labels: Mapping[str, str] | None = None,
    attempt: int = 1,
    resumed_from_step: int = 0,
    parent: tuple[str, int] | None = None,
    planned_steps: int = 0,
) -> pb.Registration:
    """Return the message that announces one attempt of a run.

    Args:
        observer: what is measured, and how.
        run_id: stays the same when the run is resumed.
        name: for people.
        model: hub id or directory of the model that trains.
        base_source: where the base came from: a hub id, a directory, or "initial weights".
        labels: such as algorithm, dataset, seed.
        attempt: 1 for the first start; the reporter raises it above the attempts it knows.
        resumed_from_step: step that this attempt goes on from.
        parent: the run and the step that this run branched from, the same in each attempt.
        planned_steps: step at which the training is to end; 0 where that is not known.

    Raises:
        ConfigurationError: this is not the first of the processes that train together, and another one reports.
    """
    if not observer.is_first:
        raise ConfigurationError(
            f"this is process {observer.ranks.rank} of the {observer.ranks.world} that train together, and the first "
            "one reports for all. Make the registration and the Reporter there only: `if observer.is_first: …`; "
            "observe on every one, with the same steps."
        )
    return pb.Registration(
        run_id=run_id,
        attempt=attempt,
        # The default ones are of directories, which need not be UTF-8.
        name=shown(name),
        model=shown(model),
        base=pb.Base(source=shown(base_source), fingerprint=observer.base_fingerprint, mode=observer.base_mode),
        labels=dict(labels or {}),
        groups=group_messages(observer.groups),
        references=reference_messages(observer.reference_weights),
        criterion=criterion_message(observer.rules.criterion),
        tolerances=observer.rules.tolerances,
        visible_dtype=observer.visible_dtype,
        stored_dtypes=observer.stored_dtypes,
        library_versions=_library_versions(),
        resumed_from_step=resumed_from_step,
        planned_steps=planned_steps,
        started_at=time.time(),
        parent=None if parent is None else pb.Parent(run_id=parent[0], step=parent[1]),
        start=pb.Start(id=uuid.uuid4().hex, host=socket.gethostname(), process_id=os.getpid()),
    )


def _library_versions() -> dict[str, str]:
    versions = {"sparsity-monitor": __version__}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions
