"""How far the clock of a run's machine is from the service's: what the run says of times is by its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

_AGREE_SECONDS = 60.0
# Until a service that was stopped has read what lay there meanwhile, which looks as if it came from behind.
_BEHIND_AFTER = 5


@dataclass(frozen=True, slots=True)
class ClocksApart:
    """By the latest heartbeats of one attempt: each was sent before it was heard, perhaps long before.

    Attributes:
        latest: by how many seconds each was sent after it was heard, by the two clocks; minus for before.
    """

    latest: tuple[float, ...] = ()

    def after(self, sent_at: float, heard_at: float) -> ClocksApart:
        """Return what is known with one more heartbeat; senders that do not say when they sent it say 0."""
        if not 0 < sent_at < math.inf:
            return self
        return ClocksApart((*self.latest, sent_at - heard_at)[-_BEHIND_AFTER:])

    @property
    def ahead(self) -> float | None:
        """By how many seconds the run's clock is ahead, minus if it is behind; None: less than a minute, or unknown.

        >>> apart = ClocksApart().after(sent_at=7200.0, heard_at=0.5)
        >>> apart.ahead, apart.after(100.0, 101.0).ahead, ClocksApart((-7200.0,) * 5).ahead
        (7199.5, 7199.5, -7200.0)
        """
        least = self.least
        return least if least is not None and abs(least) > _AGREE_SECONDS else None

    @property
    def least(self) -> float | None:
        """By how many seconds the run's clock is ahead at least, also if that is little; None: unknown."""
        least = max(self.latest, default=0.0)
        return least if least > 0 or len(self.latest) == _BEHIND_AFTER else None
