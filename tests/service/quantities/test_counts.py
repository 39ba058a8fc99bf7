from __future__ import annotations

import pytest

from monitor.service.quantities.counts import ReferenceTotals, add_up, sparsity, total_weights
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import observation, registration


def test_totals_are_the_sums_over_the_groups() -> None:
    totals = add_up(observation(), registration())
    assert totals.counts == {
        "changed": 50,
        "newly_changed": 5,
        "reverted": 3,
        "step_changed": 10,
        "touched": 100,
        "hidden": 500,
        "non_finite": 1,
    }
    assert totals.changed_at == (20, 2)
    assert totals.references == (ReferenceTotals(weights=200, intersection=15, expected_intersection=5),)
    assert totals.update_norm == pytest.approx(5)
    assert totals.update_max_abs == 0.5


def test_what_was_not_measured_is_not_zero() -> None:
    totals = add_up(pb.Observation(step=1, changed_at=[pb.Counts(), pb.Counts(weights=[1, 1, 1])]), registration())
    assert totals.counts == {}
    assert totals.changed_at == (None, 3)
    assert totals.references == (ReferenceTotals(weights=200, intersection=None, expected_intersection=None),)
    assert totals.update_norm is None
    assert totals.update_max_abs is None


def test_all_weights_and_those_that_are_trained() -> None:
    assert total_weights(registration()) == 2000
    assert add_up(observation(), registration()).trained_weights == 1000


def test_what_an_observation_says_of_what_trains_goes_before_the_registration() -> None:
    totals = add_up(observation(trained=[700, 600, 400]), registration())
    assert (totals.trained, totals.trained_weights) == ((700, 600, 400), 1700)


@pytest.mark.parametrize("count", ["changed", "step_changed", "touched", "hidden"])
def test_a_sender_that_does_not_say_what_started_to_train_gives_no_ratio_below_zero(count: str) -> None:
    # The embedding was frozen when the run registered.
    totals = add_up(pb.Observation(step=1, **{count: [900, 30, 20]}), registration())
    assert totals.trained == (1000, 600, 400)


def test_before_it_measures_anything_a_run_trains_what_it_registered() -> None:
    assert add_up(pb.Observation(), registration()).trained == (0, 600, 400)


@pytest.mark.parametrize(
    ("changed", "weights", "expected"), [(0, 10, 1.0), (10, 10, 0.0), (1, 4, 0.75), (None, 10, None), (0, 0, None)]
)
def test_sparsity_is_the_share_that_did_not_change(changed: int | None, weights: int, expected: float | None) -> None:
    assert sparsity(changed, weights) == expected
