"""Pace: how many steps apart observations are, so that they cost no more than they may."""

from __future__ import annotations

import math

from monitor.observe.observation import Observation


class Pace:
    """Decides at which steps to observe.

    Every process decides alike, because the cost in an observation is that of all processes together.

    Args:
        every: steps between observations, at least.
        max_overhead: share of the training's time that observing may cost; None for no bound.
        offset: steps by which observations are later than the multiples of `every`.

    >>> pace = Pace(every=2, max_overhead=None)
    >>> [step for step in range(1, 7) if pace.is_due(step)]
    [2, 4, 6]
    """

    def __init__(self, every: int, max_overhead: float | None, offset: int = 0) -> None:
        self._every = every
        self._offset = offset
        self._max_overhead = max_overhead
        self._stride = 1
        self._latest = 0

    def is_due(self, step: int) -> bool:
        """Return whether to observe after this step."""
        return (step - self._offset) % self._every == 0 and step >= self._latest + self._stride

    def start(self, step: int) -> None:
        """Count from this step, where an observation starts; it may be complete only when the next one is due."""
        self._latest = step

    def see(self, observation: Observation) -> None:
        """Set observations so many steps apart that their cost stays within the bound.

        cost ÷ (stride × seconds per step) ≤ max_overhead, and `overhead` = cost ÷ (the last stride × seconds per step).
        """
        if self._max_overhead is None or observation.overhead is None:
            return
        # A rounding error must not add a step where the cost is exactly the bound.
        stride = math.ceil(observation.stride * observation.overhead / self._max_overhead - 1e-9)
        self._stride = max(stride, 1)
