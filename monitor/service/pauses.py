"""How long a run pauses between two observations, and so how long a pause has to be before the run is stalled."""

from __future__ import annotations

from dataclasses import dataclass, replace

_KNOWN_AFTER = 5
_TIMES_THE_LONGEST = 3
_AT_LEAST = 1 / 3


@dataclass(frozen=True, slots=True)
class Pauses:
    """The pauses between the observations of one attempt, in seconds, by the clock of the run.

    The longest counts, not a typical one: evaluations and checkpoints come between few observations, and take long.

    Attributes:
        count: how many there were.
        longest, second: the two longest.
        observed_at: when the latest observation was made, None before the first.
    """

    count: int = 0
    longest: float = 0.0
    second: float = 0.0
    observed_at: float | None = None

    def after(self, observed_at: float) -> Pauses:
        """Return the pauses with one more observation."""
        if self.observed_at is None:
            return replace(self, observed_at=observed_at)
        pause = observed_at - self.observed_at
        if pause <= 0:
            # A clock that was set back.
            return replace(self, observed_at=observed_at)
        longest, second, *_ = sorted((pause, self.longest, self.second), reverse=True)
        return Pauses(self.count + 1, longest, second, observed_at)

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
