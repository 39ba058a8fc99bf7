"""Two starts of one run: which of them reports. A start is one training process from its beginning to its end."""

from __future__ import annotations

import math

from monitor.service.errors import RunInUseError, RunTakenError
from monitor.service.live.runs import LiveRun
from monitor.service.settings import ServiceSettings
from monitor.service.storage.agreement import HOW_TO_TELL_APART, who_has
from monitor.service.times import when
from monitor.wire.monitor_pb2 import Finish, Registration


def check_start(
    new: Registration, sent_at: float, run: LiveRun | None, *, up_since: float, now: float, settings: ServiceSettings
) -> None:
    """Accept a start unless another start of the run trains, or trained when this one began.

    A start that is known, one after another that was killed, what is delivered late of an earlier attempt, and those of
    senders that do not name their starts are accepted.

    Args:
        sent_at: when the registration was sent, by the sender's clock; 0 if it does not say.
        run: as it stands, None for a new one.
        up_since: when this service began to hear of runs, in seconds since 1970-01-01 UTC; so are all times.

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
    if run.finish is not None and _goes_back(new, run.finish):
        began, ended = _by_one_clock(new, sent_at, run, run.finish, now)
        if began < ended:
            raise RunTakenError(
                f"run {new.run_id!r} was trained to its end at {when(ended)}, and this training began before, beside "
                f"it: it was trained by {who_has(run.registration)}. {HOW_TO_TELL_APART}"
            )


def _is_training(run: LiveRun, up_since: float, now: float, settings: ServiceSettings) -> bool:
    if run.finish is not None or run.training_ended:
        return False
    # While the service was down, nobody could be heard. What was heard in the future, a clock has been set back since.
    return abs(now - max(run.heard_at, up_since)) <= settings.lost_after_seconds


def _goes_back(new: Registration, finish: Finish) -> bool:
    """Return whether a start goes on from before the end that the run was trained to."""
    return finish.outcome == Finish.OUTCOME_FINISHED and new.resumed_from_step < finish.step


def _by_one_clock(new: Registration, sent_at: float, run: LiveRun, finish: Finish, now: float) -> tuple[float, float]:
    """Return when a start began and when the run ended, by the service's clock as far as it is known.

    Each is told by the clock of the machine that trained, and those may be hours apart.
    """
    # Heard of in the future: the service's own clock was set back, and says nothing of the end.
    if not 0 < sent_at < math.inf or run.heard_at > now:
        return new.started_at, finish.finished_at
    ahead = sent_at - now
    of_the_first = run.clocks.least
    if of_the_first is None:
        # Of before this service started, for instance.
        of_the_first = ahead if new.start.host == run.registration.start.host else 0.0
    # It was heard of after it happened.
    return new.started_at - ahead, min(finish.finished_at - of_the_first, run.heard_at)
