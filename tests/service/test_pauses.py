from __future__ import annotations

from functools import reduce
from itertools import accumulate

import pytest

from monitor.service.pauses import Pauses


def stalled_after(*pauses: float) -> float:
    """The limit of a run with these pauses, where 1,800 seconds hold for those that are not known."""
    times = accumulate(pauses, initial=1.7e9)
    return reduce(Pauses.after, times, Pauses()).stalled_after(1800)


@pytest.mark.parametrize(
    ("pauses", "limit"),
    [
        ((), 1800),
        ((1, 1, 1, 1), 1800),
        ((1, 1, 1, 1, 1), 600),
        ((300,) * 10, 900),
        ((3600,) * 10, 3 * 3600),
        # Evaluations between quick steps.
        ((10, 10, 10, 10, 1200, 10, 10, 10, 10), 3600),
        # A machine that slept for a night, and one that does so each night.
        ((10, 10, 10, 10, 30_000, 10), 600),
        ((10, 10, 30_000, 10, 10, 30_000, 10), 90_000),
        # A clock that was set back.
        ((10, 10, 10, -5000, 10, 10), 600),
        ((10, 10, 10, -5000, 10), 1800),
    ],
)
def test_a_run_is_stalled_by_the_measure_of_its_own_longest_pauses(pauses: tuple[float, ...], limit: float) -> None:
    assert stalled_after(*pauses) == limit


def test_a_service_that_calls_runs_stalled_early_goes_on_doing_so() -> None:
    times = [float(second) for second in range(10)]
    assert reduce(Pauses.after, times, Pauses()).stalled_after(60) == 20
