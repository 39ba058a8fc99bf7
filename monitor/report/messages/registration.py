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

from monitor.errors import ConfigurationError, shown
from monitor.limits import MAX_INTEGER, Limits, check_identity, check_run_id, legible
from monitor.report.messages.conversion import criterion_message, group_messages, reference_messages
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
        name: for people; a service may show less of it, see `Reporter`.
        model: hub id or directory of the model that trains.
        base_source: where the base came from: a hub id, a directory, or "initial weights".
        labels: such as algorithm, dataset, seed.
        attempt: 1 for the first start; the reporter raises it above the attempts it knows.
        resumed_from_step: step that this attempt goes on from.
        parent: the run and the step that this run branched from, the same in each attempt.
        planned_steps: step at which the training is to end; 0 where that is not known.

    Raises:
        ConfigurationError: this is not the first of the processes that train together, and another one reports; or
            something has a value that cannot work.
    """
    if not hasattr(observer, "is_first"):
        raise ConfigurationError(f"observer is {shown(observer)}; expected the UpdateObserver of the model.")
    if not observer.is_first:
        raise ConfigurationError(
            f"this is process {observer.ranks.rank} of the {observer.ranks.world} that train together, and the first "
            "one reports for all. Make the registration and the Reporter there only: `if observer.is_first: …`; "
            "observe on every one, with the same steps."
        )
    check_run_id(run_id, Limits.in_force())
    _check_number("attempt", attempt, least=1)
    _check_number("resumed_from_step", resumed_from_step, least=0)
    return pb.Registration(
        run_id=run_id,
        attempt=attempt,
        name=legible(str(name)),
        model=legible(str(model)),
        base=pb.Base(source=legible(str(base_source)), fingerprint=observer.base_fingerprint, mode=observer.base_mode),
        labels=checked_labels(labels or {}),
        groups=group_messages(observer.groups),
        base_squared_norm=observer.base_squared_norm.tolist(),
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


def checked_labels(labels: object) -> dict[str, str]:
    """Return labels as text that can be sent.

    Raises:
        ConfigurationError: they are no mapping, or a name among them is none.
    """
    if not isinstance(labels, Mapping):
        raise ConfigurationError(f'labels is {shown(labels)}; expected {{name: value}}, such as {{"seed": "0"}}.')
    limits = Limits.in_force()
    for name in labels:
        check_identity(name, "the key of a label", limits)
    return {name: legible(str(value)) for name, value in labels.items()}


def _check_number(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_INTEGER:
        raise ConfigurationError(f"{name} is {shown(value)}; expected a whole number from {least}.")


def _library_versions() -> dict[str, str]:
    versions = {"sparsity-monitor": __version__}
    for library in _LIBRARIES:
        try:
            versions[library] = legible(version(library))
        except PackageNotFoundError:
            continue
    return versions
