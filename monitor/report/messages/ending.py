"""How an attempt ended: it completed, was stopped early, was preempted, or failed, and in which words."""

from __future__ import annotations

import time
from typing import NamedTuple

from monitor.limits import MAX_REASON_LENGTH, legible, shorten
from monitor.wire import monitor_pb2 as pb

# torch puts the traceback of a DataLoader's worker into the message; the last line of it are the worker's own words.
_OF_A_WORKER = "Original Traceback"


class Ending(NamedTuple):
    """How an attempt ended.

    Attributes:
        kind: see the wire contract.
        reason: for people; empty where the training went to its end.
        stopped_by: what stopped it early, such as the class of a callback; empty where that is not known.
    """

    kind: pb.Finish.Ending
    reason: str = ""
    stopped_by: str = ""

    def message(self, step: int) -> pb.Finish:
        """Return the message that says so, at a step. Services of earlier versions go by its outcome."""
        went_well = self.kind in (pb.Finish.ENDING_COMPLETED, pb.Finish.ENDING_STOPPED)
        return pb.Finish(
            outcome=pb.Finish.OUTCOME_FINISHED if went_well else pb.Finish.OUTCOME_FAILED,
            # What an exception says may be as long as a data set, and hold what cannot be sent.
            reason=shorten(legible(self.reason), MAX_REASON_LENGTH),
            step=step,
            finished_at=time.time(),
            ending=self.kind,
            stopped_by=self.stopped_by,
        )


COMPLETED = Ending(pb.Finish.ENDING_COMPLETED)


def failed(reason: str) -> Ending:
    """Return the ending of a training that failed."""
    return Ending(pb.Finish.ENDING_FAILED, reason)


def preempted(reason: str) -> Ending:
    """Return the ending of a training that was ended from outside and is to be resumed."""
    return Ending(pb.Finish.ENDING_PREEMPTED, reason)


def stopped(by: str) -> Ending:
    """Return the ending of a training that was stopped before its planned steps; `by` is empty where nobody knows."""
    return Ending(pb.Finish.ENDING_STOPPED, f"stopped early by {by or 'something in the training'}", by)


def reason_of(error: BaseException) -> str:
    """Return an exception in one line.

    >>> reason_of(ValueError("no data")), reason_of(KeyboardInterrupt())
    ('ValueError: no data', 'KeyboardInterrupt')
    >>> reason_of(RuntimeError("CUDA error: out of memory\\nFor debugging, set CUDA_LAUNCH_BLOCKING=1"))
    'RuntimeError: CUDA error: out of memory'
    """
    name = type(error).__name__
    try:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    except Exception:  # noqa: BLE001
        # The exception is the user's, and so is its `__str__`.
        return name
    if not lines:
        return name
    said = " ".join([lines[0], *lines[-1:]]) if any(line.startswith(_OF_A_WORKER) for line in lines) else lines[0]
    return shorten(f"{name}: {said}", MAX_REASON_LENGTH)
