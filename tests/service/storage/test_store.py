from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from monitor.service.errors import (
    ContradictingRegistrationError,
    IncomparableAttemptError,
    StoreError,
    TooManyRunsError,
)
from monitor.service.storage.queries.curves import Range
from monitor.service.storage.store import Store
from monitor.service.storage.stored import START, Position, after_step
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import finished, logged, observed, registration
from tests.service.storing import add, batch

NOW = 1.75e9


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = Store(store_url)
    yield store
    store.close()


def _register(store: Store, run_id: str = "run", attempt: int = 1, resumed_from_step: int = 0) -> int:
    return store.register(registration(run_id, attempt, resumed_from_step=resumed_from_step), NOW, max_runs=10)


def _positions(store: Store, after: Position = START, limit: int = 100) -> list[Position]:
    return [stored.position for stored in store.history("run", after, limit)]


def test_items_come_back_as_they_were_sent(store: Store) -> None:
    _register(store)
    items = [observed(1), logged(2, loss=float("nan")), finished(3, step=2, reason="out of memory")]
    assert add(store, "run", 1, items, None, NOW) == {1, 2, 3}
    assert [stored.item.SerializeToString() for stored in store.history("run", START, 10)] == [
        item.SerializeToString() for item in items
    ]


def test_a_number_keeps_the_item_it_was_first_given(store: Store) -> None:
    _register(store)
    assert add(store, "run", 1, [observed(1), observed(2)], None, NOW) == {1, 2}
    assert add(store, "run", 1, [observed(2, step=77), observed(3), observed(3, step=88)], None, NOW) == {3}
    assert _positions(store) == [(1, 1, 1), (2, 1, 2), (3, 1, 3)]


def test_what_two_batches_bring_together_is_new_in_the_first(store: Store) -> None:
    for run_id in ("run", "other"):
        _register(store, run_id)
    add(store, "run", 1, [observed(1)], None, NOW)
    brought = [("run", [1, 2, 3]), ("other", [1, 3]), ("run", [3, 4]), ("other", [])]
    batches = [batch(registration(run_id), [observed(number) for number in numbers]) for run_id, numbers in brought]
    assert store.add(batches, NOW + 1) == [{2, 3}, {1, 3}, {4}, set()]
    assert [position.sequence for position in _positions(store)] == [1, 2, 3, 4]
    assert [store.run(run_id).observations for run_id in ("run", "other")] == [4, 2]


def test_where_one_attempt_is_not_there_nothing_of_the_others_is_stored(store: Store) -> None:
    _register(store)
    batches = [batch(registration(*key), [observed(1)]) for key in (("run", 1), ("gone", 2))]
    with pytest.raises(StoreError, match="attempt 2 of run gone was taken out of the store"):
        store.add(batches, NOW)
    assert _positions(store) == []


def test_a_batch_is_stored_as_a_whole_or_not_at_all(store: Store) -> None:
    _register(store)
    bad = observed(2, step=2**64 - 1)
    with pytest.raises((StoreError, OverflowError)):
        add(store, "run", 1, [observed(1), bad], None, NOW)
    assert _positions(store) == []


def test_items_of_an_attempt_that_never_registered_are_not_taken(store: Store) -> None:
    with pytest.raises(StoreError):
        add(store, "run", 1, [observed(1)], None, NOW)


def test_registering_again_tells_how_far_the_attempt_got(store: Store) -> None:
    assert _register(store) == 0
    add(store, "run", 1, [observed(1), observed(4)], None, NOW)
    assert _register(store) == 4
    assert _register(store, attempt=2) == 0


def test_registrations_are_held_against_the_stored_ones(store: Store) -> None:
    _register(store)
    with pytest.raises(ContradictingRegistrationError):
        store.register(registration("run", name="another"), NOW, max_runs=10)
    with pytest.raises(IncomparableAttemptError):
        store.register(registration("run", 2, visible_dtype="float32"), NOW, max_runs=10)
    assert list(store.run("run").registrations) == [1]


def test_a_full_store_takes_new_attempts_but_no_new_runs(store: Store) -> None:
    store.register(registration("run"), NOW, max_runs=1)
    with pytest.raises(TooManyRunsError, match=r"1 runs are stored, and this service allows 1.*--max-runs"):
        store.register(registration("other"), NOW, max_runs=1)
    store.register(registration("run", 2), NOW, max_runs=1)


def test_a_resumed_run_supersedes_what_lies_behind_the_step_it_goes_on_from(store: Store) -> None:
    _register(store)
    add(store, "run", 1, [observed(step) for step in (10, 20, 30)], None, NOW)
    _register(store, attempt=2, resumed_from_step=20)
    assert _positions(store) == [(10, 1, 10), (20, 1, 20)]
    add(store, "run", 2, [observed(1, step=30)], None, NOW)
    assert _positions(store) == [(10, 1, 10), (20, 1, 20), (30, 2, 1)]


def test_an_attempt_that_goes_further_back_supersedes_those_between(store: Store) -> None:
    for attempt, resumed in ((1, 0), (2, 20), (3, 10)):
        _register(store, attempt=attempt, resumed_from_step=resumed)
    for attempt in (1, 2, 3):
        add(store, "run", attempt, [observed(step) for step in (10, 20, 30)], None, NOW)
    assert _positions(store) == [(10, 1, 10), (10, 2, 10), (10, 3, 10), (20, 3, 20), (30, 3, 30)]


def test_an_attempt_may_resume_before_the_items_it_supersedes_arrive(store: Store) -> None:
    _register(store)
    _register(store, attempt=2, resumed_from_step=20)
    add(store, "run", 1, [observed(step) for step in (10, 20, 30)], None, NOW)
    assert _positions(store) == [(10, 1, 10), (20, 1, 20)]


def test_an_attempt_may_register_after_a_later_one(store: Store) -> None:
    _register(store, attempt=2, resumed_from_step=20)
    _register(store)
    add(store, "run", 1, [observed(step) for step in (10, 20, 30)], None, NOW)
    assert _positions(store) == [(10, 1, 10), (20, 1, 20)]


def test_history_goes_on_where_a_page_ended(store: Store) -> None:
    _register(store)
    items = [observed(1, step=1), logged(2, step=1), observed(3, step=2), logged(4, step=2), observed(5, step=3)]
    add(store, "run", 1, items, None, NOW)
    pages, after = [], START
    while page := store.history("run", after, 2):
        pages.append([stored.position.sequence for stored in page])
        after = page[-1].position
    assert pages == [[1, 2], [3, 4], [5]]
    assert _positions(store, after_step(1)) == [(2, 1, 3), (2, 1, 4), (3, 1, 5)]
    assert [item.position.sequence for item in store.history("run", START, 9, "training_log")] == [2, 4]


def test_a_run_is_known_by_what_was_not_superseded(store: Store) -> None:
    _register(store)
    add(store, "run", 1, [observed(1, step=10), logged(2, step=10, loss=3), observed(3, step=20)], None, NOW)
    add(store, "run", 1, [logged(4, step=20, loss=2), finished(5, step=20, reason="killed")], None, NOW)
    _register(store, attempt=2, resumed_from_step=10)
    run = store.run("run")
    assert run.observation is not None
    assert run.observation.position == (10, 1, 1)
    assert [log.position for log in run.logs] == [(10, 1, 2)]
    assert run.observations == 1
    assert run.finish is None
    assert sorted(run.registrations) == [1, 2]


def test_a_sign_of_life_is_kept_for_its_attempt(store: Store) -> None:
    _register(store)
    add(store, "run", 1, [], pb.Heartbeat(unsent_items=3, dropped_items=2), NOW + 5)
    run = store.run("run")
    assert (run.heard_at, run.unsent_items, run.dropped_items) == (NOW + 5, 3, 2)
    assert run.observation_heard_at is None
    add(store, "run", 1, [observed(1)], None, NOW + 9)
    run = store.run("run")
    assert (run.heard_at, run.observation_heard_at, run.unsent_items) == (NOW + 9, NOW + 9, 3)
    _register(store, attempt=2)
    assert store.run("run").unsent_items == 0


def test_signs_of_life_that_come_all_the_time_are_kept_once_a_second(store: Store) -> None:
    _register(store)
    kept = []
    for sequence, (now, item) in enumerate(
        [(10, logged), (10.25, logged), (10.5, observed), (10.75, observed), (11.5, observed), (11.75, logged)], start=1
    ):
        assert add(store, "run", 1, [item(sequence)], None, NOW + now) == {sequence}
        run = store.run("run")
        kept.append((run.heard_at - NOW, run.observation_heard_at and run.observation_heard_at - NOW))
    assert kept == [(10, None), (10, None), (10.5, 10.5), (10.5, 10.5), (11.5, 11.5), (11.5, 11.5)]
    # Its counts are never old, and a clock that was set back counts.
    add(store, "run", 1, [], pb.Heartbeat(unsent_items=3), NOW + 12)
    assert (store.run("run").heard_at, store.run("run").unsent_items) == (NOW + 12, 3)
    add(store, "run", 1, [logged(7)], None, NOW - 50)
    assert store.run("run").heard_at == NOW - 50


def test_an_attempt_that_was_taken_out_is_missed_by_what_comes_right_after_others(store: Store) -> None:
    _register(store)
    _register(store, "other")
    for run_id in ("run", "other"):
        add(store, run_id, 1, [observed(1)], None, NOW)
    with store._engine.begin() as another:
        for table in ("totals", "curve_values", "items", "attempts"):
            another.exec_driver_sql(f"DELETE FROM {table} WHERE run_id = 'run'")
    batches = [batch(registration(run_id), [observed(2)]) for run_id in ("other", "run")]
    with pytest.raises(StoreError, match=r"attempt 1 of run run was taken out of the store .* by another program"):
        store.add(batches, NOW + 0.1)
    assert store.run("other").observations == 1
    assert store.add(batches[:1], NOW + 0.2) == [{2}]


def test_absurd_counts_of_a_heartbeat_do_no_harm(store: Store) -> None:
    _register(store)
    add(store, "run", 1, [], pb.Heartbeat(unsent_items=2**64 - 1), NOW)
    assert store.run("run").unsent_items == 2**63 - 1


def test_the_finish_of_the_latest_attempt_counts(store: Store) -> None:
    _register(store)
    add(store, "run", 1, [finished(1)], None, NOW)
    finish = store.run("run").finish
    assert finish is not None
    assert finish.outcome == pb.Finish.OUTCOME_FINISHED


def test_what_was_stored_is_there_when_the_store_is_opened_again(store_url: str) -> None:
    store = Store(store_url)
    _register(store)
    add(store, "run", 1, [observed(1)], None, NOW)
    store.close()
    store = Store(store_url)
    assert store.run_ids() == ["run"]
    assert _positions(store) == [(1, 1, 1)]
    store.ping()
    store.close()


def test_what_the_index_cannot_hold_is_stored_all_the_same(store_url: str) -> None:
    """Otherwise its sender would try again for ever."""
    long = random.Random(1)
    run_id, name = ("".join(chr(long.randrange(0x4E00, 0x9FFF)) for _ in range(512)) for _ in range(2))
    store = Store(store_url)
    described = registration(run_id, groups=[pb.Group(module="huge", weights=2**63 - 1)], references=[])
    store.register(described, 1.7e9, 1)
    observation = pb.Observation(step=1, observed_at=1.7e9, step_changed=[2**63 - 1], changed=[1])
    observation.monitor_bytes = 2**64 - 1
    items = [pb.Item(sequence=1, observation=observation), logged(2, step=1, **{name: 1.0, "nul\0": 2.0, "loss": 3.0})]
    assert add(store, run_id, 1, items, None, 1.7e9, described) == {1, 2}
    names = ["changed", "monitor_bytes", "dense_bytes", f"metric:{name}", "metric:loss"]
    found = store.curves(run_id, names, Range.of(1, 1, 1), 2**63 - 1)
    store.close()
    assert {name: curve.last for name, curve in found.items()} == {"changed": [1], "metric:loss": [3]}


def test_a_run_that_another_program_took_out_comes_again(tmp_path: Path) -> None:
    """Such a program may know nothing of the index of curves, which has the old ones then."""
    path = tmp_path / "store.db"
    for changed in ([0, 30, 20], [0, 3, 2]):
        store = Store(f"sqlite:///{path}")
        _register(store)
        assert add(store, "run", 1, [observed(1, changed=changed), logged(2, step=1, loss=1.0)], None, NOW) == {1, 2}
        found = store.curves("run", ["changed"], Range.of(1, 1, 1), 2000)
        store.close()
        assert found["changed"].last == [sum(changed)]
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM items")
            connection.execute("DELETE FROM attempts")
