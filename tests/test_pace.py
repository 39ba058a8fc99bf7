"""How far apart observations are where they cost more than they may."""

from __future__ import annotations

import numpy as np
import pytest

from monitor.errors import ConfigurationError
from monitor.observe.observation import Observation
from monitor.pace import Pace
from monitor.settings import RunSettings

NONE = np.zeros(0, dtype=np.int64)


def observation(step: int, stride: int, overhead: float | None) -> Observation:
    floats = NONE.astype(np.float64)
    return Observation(
        *(step, stride, 0.0, (), NONE, NONE, NONE, None, None, NONE, NONE, floats, floats), overhead=overhead
    )


def test_a_cost_above_the_bound_puts_observations_further_apart() -> None:
    pace = Pace(every=1, max_overhead=0.01)
    assert pace.is_due(1)
    pace.see(observation(1, 1, None))
    assert pace.is_due(2)
    pace.see(observation(2, 1, 0.045))
    assert [step for step in range(3, 17) if pace.is_due(step)] == [7, 12]


def test_the_distance_stays_while_the_cost_is_what_it_may_be() -> None:
    pace = Pace(every=1, max_overhead=0.01)
    pace.see(observation(10, 5, 0.01))
    assert [step for step in range(11, 25) if pace.is_due(step)] == [15, 20]


def test_observations_come_closer_again_when_they_cost_less() -> None:
    pace = Pace(every=2, max_overhead=0.01)
    pace.see(observation(10, 6, 0.002))
    assert [step for step in range(11, 17) if pace.is_due(step)] == [12, 14, 16]


def test_what_is_seen_at_the_next_step_does_not_double_the_cost() -> None:
    """As beside the training on a GPU; an observation tells what the one before it cost."""
    pace = Pace(every=1, max_overhead=0.01)
    observed = [0]
    under_way = None
    for step in range(1, 50):
        due = pace.is_due(step)
        if under_way is not None:
            pace.see(under_way)
            under_way = None
        if due:
            stride = step - observed[-1]
            # One costs a tenth of a step.
            under_way = observation(step, stride, 0.1 / stride if len(observed) > 1 else None)
            observed.append(step)
    assert observed == [0, 1, 2, 3, 13, 23, 33, 43]


def test_without_a_bound_the_cost_does_not_matter() -> None:
    pace = Pace(every=3, max_overhead=None)
    pace.see(observation(3, 3, 0.9))
    assert [step for step in range(4, 10) if pace.is_due(step)] == [6, 9]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(ConfigurationError, match="max_overhead"):
        RunSettings.check(target=None, max_overhead=share)
