from __future__ import annotations

import math
from functools import reduce

import pytest

from monitor.service.live.clocks import ClocksApart


def ahead(*seconds: float) -> float | None:
    """What is known after heartbeats that were sent so long after they were heard."""
    return reduce(lambda known, each: known.after(1e9 + each, 1e9), seconds, ClocksApart()).ahead


@pytest.mark.parametrize(
    ("seconds", "known"),
    [
        ((), None),
        ((-0.1,) * 5, None),
        ((-59.0,) * 5, None),
        ((7200.0,), 7200),
        ((7199.0, 7199.9, 7140.0), 7199.9),
        ((-7200.1,) * 5, -7200.1),
        # Heartbeats that lay with a service that was stopped.
        ((-150.0, -145.0, -140.0, -0.1), None),
        ((-0.1, -0.1, -150.0, -145.0, -140.0), None),
        # A clock that was set right.
        ((7200.0, -0.1, -0.1, -0.1, -0.1, -0.1), None),
        # Senders that do not say when they sent it, or nonsense.
        ((-1e9, -1e9, -1e9, -1e9, -1e9), None),
        ((math.inf, math.nan), None),
    ],
)
def test_a_clock_is_apart_when_all_late_heartbeats_say_so(seconds: tuple[float, ...], known: float | None) -> None:
    assert ahead(*seconds) == pytest.approx(known)
