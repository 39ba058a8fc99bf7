from __future__ import annotations

from monitor.service.live.runs import LiveRun, from_store
from monitor.service.metrics.series import group_arrays, roll_up
from monitor.service.storage.stored import Position, StoredItem, StoredRun
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import changed, observed, registration


def _run(*registrations: pb.Registration, latest: pb.Item | None, attempt: int = 1) -> LiveRun:
    observation = StoredItem(Position(1, attempt, 1), latest) if latest else None
    stored = StoredRun(
        registrations={each.attempt: each for each in registrations},
        registered_at=0,
        heard_at=0,
        observation_heard_at=None,
        unsent_items=0,
        dropped_items=0,
        observation=observation,
        logs=[],
        finish=None,
        observations=1,
        observed_at=[],
    )
    return from_store(stored)


def test_each_group_has_its_counts() -> None:
    arrays = {array.family: list(array.values) for array in group_arrays(_run(registration(), latest=observed(1)))}
    assert arrays == {
        "group_weights": [1000, 600, 400],
        "group_frozen_weights": [1000, 0, 0],
        "group_changed_weights": [0, 30, 20],
        "group_newly_changed_weights": [0, 3, 2],
        "group_reverted_weights": [0, 2, 1],
        "group_step_changed_weights": [0, 6, 4],
        "group_touched_weights": [0, 60, 40],
        "group_hidden_weights": [0, 300, 200],
        "group_non_finite_weights": [0, 0, 1],
        "group_sync_changed_weights": [0, 7, 5],
        "group_squared_update_norm": [0, 9, 16],
        "group_squared_base_norm": [0, 900, 1600],
        "group_reference_weights": [100, 60, 40],
        "group_reference_intersection_weights": [0, 9, 6],
        "group_reference_expected_intersection_weights": [0, 3, 2],
    }


def test_what_started_to_train_is_not_frozen() -> None:
    thawed = observed(1, trained=[1000, 600, 0])
    arrays = {array.family: list(array.values) for array in group_arrays(_run(registration(), latest=thawed))}
    assert (arrays["group_weights"], arrays["group_frozen_weights"]) == ([1000, 600, 400], [0, 0, 400])


def test_what_was_not_measured_has_no_series() -> None:
    measured = pb.Item(sequence=1, observation=pb.Observation(step=1, changed=[0, 2, 3]))
    families = {array.family for array in group_arrays(_run(registration(), latest=measured))}
    known = {"group_weights", "group_frozen_weights", "group_reference_weights"}
    assert families == known | {"group_changed_weights", "group_squared_base_norm"}
    assert {array.family for array in group_arrays(_run(registration(), latest=None))} == known


def test_references_are_those_of_the_attempt_that_observed() -> None:
    later = changed(registration(attempt=2), references=[pb.Reference(name="later", weights=[1, 1, 1])])
    arrays = group_arrays(_run(registration(), later, latest=observed(1), attempt=1))
    assert {array.reference for array in arrays} == {None, "other seed"}


def test_the_largest_are_left_out_until_the_others_fit() -> None:
    sizes = {"a": 10, "b": 30, "c": 20}
    assert roll_up(sizes, 60) == set()
    assert roll_up(sizes, 59) == {"b"}
    assert roll_up(sizes, 29) == {"b", "c"}
    assert roll_up(sizes, 0) == {"a", "b", "c"}
    assert roll_up({}, -5) == set()
