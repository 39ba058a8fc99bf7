"""Two starts of one run: which of them reports. A start is one training process from its beginning to its end."""

from __future__ import annotations

from monitor.service.errors import RunInUseError, RunTakenError
from monitor.service.live import LiveRun
from monitor.service.registration import HOW_TO_TELL_APART, when, who_has
from monitor.service.settings import ServiceSettings
from monitor.wire.monitor_pb2 import Finish, Registration


def check_start(
    new: Registration, run: LiveRun | None, *, up_since: float, now: float, settings: ServiceSettings
) -> None:
    """Accept a start unless another start of the run trains, or trained when this one began.

    A start that is known, one after another that was killed, what is delivered late of an earlier attempt, and those of
    senders that do not name their starts are accepted.

    Args:
        run: as it stands, None for a new one.
        up_since: when this service began to hear of runs, in seconds since 1970-01-01 UTC.

    Raises:
        RunInUseError: another start is training.
        RunTakenError: another start trained when this one began, and went to its end; or is training, and began the
            run as this one would.
    """
    if run is None or not new.start.id or new.attempt < run.registration.attempt:
        return
    if any(new.start.id == known.start.id for known in run.registrations.values()):
        return
    if _is_training(run, up_since, now, settings):
        heard = f"{who_has(run.registration)}, last heard of {max(0, round(now - run.heard_at))} s ago"
        if new.attempt in run.registrations and new.resumed_from_step <= new.parent.step:
            # It is no resume, so that it can never have the number.
            raise RunTakenError(
                f"run {new.run_id!r} is being trained already, by {heard}: two trainings were given one run_id. "
                f"{HOW_TO_TELL_APART}"
            )
        raise RunInUseError(
            f"run {new.run_id!r} is being trained already, by {heard}. If that one was killed, there is nothing to do: "
            f"when it has been silent for {settings.lost_after_seconds:g} s, this one takes its place. Otherwise, two "
            f"trainings were given one run_id. {HOW_TO_TELL_APART}"
        )
    if run.finish is not None and _outlived(new, run.finish):
        raise RunTakenError(
            f"run {new.run_id!r} was trained to its end at {when(run.finish.finished_at)}, and this training began "
            f"before, beside it: it was trained by {who_has(run.registration)}. {HOW_TO_TELL_APART}"
        )


def _is_training(run: LiveRun, up_since: float, now: float, settings: ServiceSettings) -> bool:
    if run.finish is not None or run.training_ended:
        return False
    # While the service was down, nobody could be heard. What was heard in the future, a clock has been set back since.
    return abs(now - max(run.heard_at, up_since)) <= settings.lost_after_seconds


def _outlived(new: Registration, finish: Finish) -> bool:
    """Return whether another start went on to its end while this one trained, instead of leaving the run to it."""
    finished = finish.outcome == Finish.OUTCOME_FINISHED
    return finished and new.started_at < finish.finished_at and new.resumed_from_step < finish.step
