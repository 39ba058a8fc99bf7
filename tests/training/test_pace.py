"""How far apart observations are where they cost more than they may."""

from __future__ import annotations

import numpy as np
import pytest

from monitor import SparsityCallback
from monitor.errors import ConfigurationError
from monitor.observe.observation import Observation
from monitor.training.pace import Pace

NONE = np.zeros(0, dtype=np.int64)


def observation(step: int, stride: int, overhead: float | None) -> Observation:
    floats = NONE.astype(np.float64)
    return Observation(
        *(step, stride, 0.0, (), NONE, NONE, NONE, None, None, NONE, NONE, floats, floats), overhead=overhead
    )


def due(pace: Pace, steps: range) -> list[int]:
    """Return the steps after which observations are made, as nothing more is seen of them."""
    made = []
    for step in steps:
        if pace.is_due(step):
            pace.start(step)
            made.append(step)
    return made


def test_a_cost_above_the_bound_puts_observations_further_apart() -> None:
    pace = Pace(every=1, max_overhead=0.01)
    assert due(pace, range(1, 2)) == [1]
    pace.see(observation(1, 1, None))
    assert due(pace, range(2, 3)) == [2]
    pace.see(observation(2, 1, 0.045))
    assert due(pace, range(3, 17)) == [7, 12]


def test_the_distance_stays_while_the_cost_is_what_it_may_be() -> None:
    pace = Pace(every=1, max_overhead=0.01)
    pace.start(10)
    pace.see(observation(10, 5, 0.01))
    assert due(pace, range(11, 25)) == [15, 20]


def test_observations_come_closer_again_when_they_cost_less() -> None:
    pace = Pace(every=2, max_overhead=0.01)
    pace.start(10)
    pace.see(observation(10, 6, 0.002))
    assert due(pace, range(11, 17)) == [12, 14, 16]


def test_an_observation_at_a_checkpoint_puts_the_next_one_off() -> None:
    pace = Pace(every=1, max_overhead=0.01)
    pace.start(10)
    pace.see(observation(10, 5, 0.01))
    pace.start(13)
    assert due(pace, range(14, 25)) == [18, 23]


def test_what_is_seen_at_the_next_step_does_not_double_the_cost() -> None:
    """As beside the training on a GPU; an observation tells what the one before it cost."""
    pace = Pace(every=1, max_overhead=0.01)
    observed = [0]
    under_way = None
    for step in range(1, 50):
        is_due = pace.is_due(step)
        if under_way is not None:
            pace.see(under_way)
            under_way = None
        if is_due:
            pace.start(step)
            stride = step - observed[-1]
            # One costs a tenth of a step.
            under_way = observation(step, stride, 0.1 / stride if len(observed) > 1 else None)
            observed.append(step)
    assert observed == [0, 1, 2, 3, 13, 23, 33, 43]


def test_without_a_bound_the_cost_does_not_matter() -> None:
    pace = Pace(every=3, max_overhead=None)
    pace.start(3)
    pace.see(observation(3, 3, 0.9))
    assert due(pace, range(4, 10)) == [6, 9]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(ConfigurationError, match="max_overhead"):
        SparsityCallback(None, max_overhead=share)
