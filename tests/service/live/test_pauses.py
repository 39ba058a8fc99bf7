from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from itertools import accumulate

import pytest

from monitor.service.live.pauses import Pauses


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


HOUR = 3600.0
STEPS = 40
JUMPS = {10: 2 * HOUR, 30: 2 * HOUR}
"""The clock of a run is set forward before these observations."""


def reported(
    pauses: Callable[[int], float], jumps: Mapping[int, float], away: range = range(0), ahead: float = 0.0
) -> Pauses:
    """The pauses of a run as a service sees them that hears of everything at once, but while it is away.

    Args:
        pauses: of the run before an observation.
        away: the observations during which the service is away; it hears of them with the next one.
    """
    known, waiting, now, heard_ahead = Pauses(), [], 1.7e9, ahead
    for number in range(STEPS):
        now += pauses(number)
        ahead += jumps.get(number, 0.0)
        waiting.append(now + ahead)
        if number not in away:
            # A stream begins with a heartbeat; in one that is open, the observation may come before the next of them.
            heard_ahead = ahead if number - 1 in away else heard_ahead
            known = reduce(lambda so_far, each, by=heard_ahead: so_far.after(each, now, by), waiting, known)
            waiting, heard_ahead = [], ahead
    return known


AWAY = {"always there": range(0), "away": range(5, 20), "away twice as long": range(5, 35)}


@pytest.mark.parametrize("away", AWAY.values(), ids=AWAY.keys())
@pytest.mark.parametrize("ahead", [0.0, 5 * HOUR, -5 * HOUR])
def test_a_clock_that_is_set_forward_is_no_pause(ahead: float, away: range) -> None:
    pauses = reported(lambda _number: 10.0, JUMPS, away, ahead)
    assert (pauses.count, pauses.stalled_after(1800)) == (STEPS - 1, 600)


@pytest.mark.parametrize("away", AWAY.values(), ids=AWAY.keys())
@pytest.mark.parametrize("jumps", [{}, JUMPS], ids=["a clock that goes right", "one that is set"])
def test_a_run_that_pauses_long_does_so_whether_the_service_is_there(jumps: Mapping[int, float], away: range) -> None:
    pauses = reported(lambda number: 10.0 if number % 8 else HOUR, jumps, away)
    assert pauses.stalled_after(1800) == pytest.approx(3 * HOUR)


@pytest.mark.parametrize("away", AWAY.values(), ids=AWAY.keys())
def test_a_clock_that_is_set_back_and_right_again_is_no_pause(away: range) -> None:
    there_and_back = {number: HOUR if number % 4 else -HOUR for number in range(2, STEPS, 2)}
    assert reported(lambda _number: 10.0, there_and_back, away).stalled_after(1800) == 600


def test_what_a_clock_was_set_by_explains_no_later_pause() -> None:
    """A service whose own clock was set back: no pause of the run shows it."""
    known = Pauses()
    for number in range(10):
        known = known.after(1.7e9 + 10 * number, 1.7e9 + 10 * number, 0.0)
    known = known.after(1.7e9 + 100, 1.7e9 + 100 - HOUR, HOUR)
    for number in range(11, 14):
        known = known.after(1.7e9 + HOUR * (number - 10), 1.7e9 + HOUR * (number - 11), HOUR)
    assert known.stalled_after(1800) == 3 * HOUR
