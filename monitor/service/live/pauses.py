"""How long a run pauses between two observations, and so how long a pause has to be before the run is stalled."""

from __future__ import annotations

from dataclasses import dataclass, replace

_KNOWN_AFTER = 5
_TIMES_THE_LONGEST = 3
_AT_LEAST = 1 / 3
_AT_ONCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Pauses:
    """The pauses between the observations of one attempt, in seconds, by the clock of the run.

    The longest counts, not a typical one: evaluations and checkpoints come between few observations, and take long.
    Observations that lay in a spool arrive together, so that the run's clock has to say how long it paused. By how
    much that was set forward meanwhile is told by how far it is from the service's, where that is heard of.

    Attributes:
        count: how many there were.
        longest, second: the two longest.
        observed_at: when the latest observation was made, None before the first.
        ahead: by how much the run's clock was ahead of the service's when that was heard of, None: unknown.
        set_forward: by how much it was set forward since an observation was heard of at once, and no pause has shown.
    """

    count: int = 0
    longest: float = 0.0
    second: float = 0.0
    observed_at: float | None = None
    ahead: float | None = None
    set_forward: float = 0.0

    def after(self, observed_at: float, heard_at: float | None = None, ahead: float | None = None) -> Pauses:
        """Return the pauses with one more observation.

        Args:
            heard_at: when it was heard of, by the service's clock; None for what was stored before the service started.
            ahead: by how much the run's clock is ahead of the service's according to its heartbeats, None: unknown.
        """
        if heard_at is None or ahead is None:
            return self._with(observed_at, None, 0.0)
        # What is heard of was made before.
        by_observation = observed_at - heard_at
        ahead = max(ahead, by_observation)
        set_forward = 0.0 if self.ahead is None else max(0.0, self.set_forward + ahead - self.ahead)
        pauses = self._with(observed_at, ahead, set_forward)
        # Made just now: whatever the clock was set by is behind it.
        return replace(pauses, set_forward=0.0) if ahead - by_observation < _AT_ONCE_SECONDS else pauses

    def _with(self, observed_at: float, ahead: float | None, set_forward: float) -> Pauses:
        known = replace(self, observed_at=observed_at, ahead=ahead, set_forward=set_forward)
        if self.observed_at is None:
            return known
        pause = observed_at - self.observed_at
        if pause <= 0:
            # A clock that was set back, and may be set right again before anything else is heard of it.
            return replace(known, set_forward=0.0 if ahead is None else set_forward - pause)
        # Among observations that lay in a spool, pauses that are longer than others show where it was set forward.
        shown = min(set_forward, max(0.0, pause - self.second))
        longest, second, *_ = sorted((pause - shown, self.longest, self.second), reverse=True)
        return replace(known, count=self.count + 1, longest=longest, second=second, set_forward=set_forward - shown)

    def stalled_after(self, unknown: float) -> float:
        """Return the seconds without an observation after which the run is stalled.

        Args:
            unknown: the same for a run whose own pauses are not known yet.

        >>> pauses = Pauses(observed_at=0.0)
        >>> for second in range(60, 360, 60):
        ...     pauses = pauses.after(second)
        >>> pauses.stalled_after(1800), pauses.after(2000.0).stalled_after(1800)
        (600.0, 5100.0)
        """
        if self.count < _KNOWN_AFTER:
            return unknown
        # One pause that long was a stall, or a machine that slept; two are how this run goes.
        longest = self.longest if self.longest <= unknown else self.second
        return max(_AT_LEAST * unknown, _TIMES_THE_LONGEST * longest)
