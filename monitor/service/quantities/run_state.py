"""The states of a run in words, as metrics, interface and pages name them."""

from __future__ import annotations

from enum import StrEnum

from monitor.wire.monitor_pb2 import Finish


class RunState(StrEnum):
    """As in the wire contract: RunSummary.State, but that what stopped and what was preempted is told apart."""

    RUNNING = "running"
    STALLED = "stalled"
    LOST = "lost"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    PREEMPTED = "preempted"


_ENDED = {
    Finish.ENDING_COMPLETED: RunState.FINISHED,
    Finish.ENDING_STOPPED: RunState.STOPPED,
    Finish.ENDING_PREEMPTED: RunState.PREEMPTED,
    Finish.ENDING_FAILED: RunState.FAILED,
}

ENDED = frozenset(_ENDED.values())
"""Those of which nothing more is to come, unless the run is resumed."""


def ended(finish: Finish) -> RunState:
    """Return how a run ended; senders that do not say how exactly say whether it failed."""
    by_outcome = RunState.FINISHED if finish.outcome == Finish.OUTCOME_FINISHED else RunState.FAILED
    return _ENDED.get(finish.ending, by_outcome)
