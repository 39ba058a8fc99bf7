"""Another identity for what the service never accepted, so that it can be delivered as a run of its own."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from monitor.errors import ConfigurationError, SpoolError
from monitor.limits import Limits, check_run_id
from monitor.report.processes.locks import TrainerWatch
from monitor.report.spool.attempt import AttemptKey, SpooledAttempt
from monitor.report.spool.items import Spool
from monitor.wire import monitor_pb2 as pb


def give_run_id(directory: Path, run_id: str) -> None:
    """Make the attempts in a spool that the service never accepted a run of its own.

    One that went on from a checkpoint becomes a branch of the run that it had been taken for.

    Args:
        directory: the spool's.
        run_id: an identity that no run has.

    Raises:
        ConfigurationError: the identity cannot be one, or is in the spool already.
        SpoolError: the training goes on, or there is not just one run that was never accepted.
    """
    check_run_id(run_id, Limits.in_force())
    with closing(Spool(directory)) as spool:
        attempts = spool.attempts()
        never = [attempt for attempt in attempts if not attempt.registered]
        if run_id in {attempt.key.run_id for attempt in attempts}:
            raise ConfigurationError(f"run {run_id!r} is in {str(directory)!r} already. Give another --run-id.")
        runs = sorted({attempt.key.run_id for attempt in never})
        if len(runs) != 1:
            found = f"{len(runs)} runs ({', '.join(runs)})" if runs else "no run"
            raise SpoolError(
                f"{str(directory)!r} holds {found} that the service never accepted; --run-id is for one. Push without "
                "--run-id first: what is accepted so is delivered under its own name."
            )
        if TrainerWatch(directory).is_alive():
            raise SpoolError(f"the training in {str(directory)!r} goes on. Give it another run_id when it has ended.")
        for number, attempt in enumerate(never, start=1):
            _rename(spool, attempt, AttemptKey(run_id, number), begins_at=_start_of(never[0]))


def _rename(spool: Spool, attempt: SpooledAttempt, new: AttemptKey, begins_at: int) -> None:
    registration = pb.Registration.FromString(attempt.registration)
    if begins_at and not registration.HasField("parent"):
        registration.parent.CopyFrom(pb.Parent(run_id=registration.run_id, step=begins_at))
    registration.run_id, registration.attempt = new.run_id, new.attempt
    spool.rename(attempt.key, new, registration.SerializeToString(deterministic=True))


def _start_of(attempt: SpooledAttempt) -> int:
    return pb.Registration.FromString(attempt.registration).resumed_from_step
