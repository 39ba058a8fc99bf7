"""A run that was deleted: what its sender still has is acknowledged or kept, never stored twice or by halves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from monitor.service.errors import StoreError
from monitor.service.storage.opening import open_engine
from monitor.service.storage.store import Store
from monitor.service.storage.stored import START
from monitor.service.storage.tables.schema import attempts, curve_values, deleted_attempts, items, totals
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import finished, logged, observed, registration
from tests.service.storing import add

NOW = 1.75e9


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = Store(store_url)
    yield store
    store.close()


def _fill(store: Store, run_id: str = "run", count: int = 3, *, end: bool = True) -> None:
    store.register(registration(run_id), NOW, max_runs=10)
    last = [finished(count + 1, step=count)] if end else [logged(count + 1, loss=1.0)]
    add(store, run_id, 1, [*(observed(n) for n in range(1, count + 1)), *last], None, NOW)


def _delete(store: Store, run_id: str = "run") -> int:
    store.delete(run_id, NOW)
    removed = 0
    while (more := store.delete_more(run_id)).rows:
        removed += more.items
    return removed


def _sequences(store: Store, run_id: str = "run") -> list[int]:
    return [stored.item.sequence for stored in store.history(run_id, START, 1000)]


def test_nothing_of_it_is_left_and_all_of_the_others(store_url: str) -> None:
    store = Store(store_url)
    for run_id in ("run", "other"):
        _fill(store, run_id, count=120)
    assert _delete(store) == 121
    assert store.run_ids() == ["other"]
    assert len(_sequences(store, "other")) == 121
    store.close()
    engine = open_engine(store_url)
    with engine.connect() as connection:
        left = [
            connection.execute(select(func.count()).select_from(table).where(table.c.run_id == "run")).scalar_one()
            for table in (attempts, items, totals, curve_values)
        ]
    engine.dispose()
    assert left == [0, 0, 0, 0]


def test_what_was_deleted_is_acknowledged_and_stays_deleted_and_what_came_after_is_kept(store: Store) -> None:
    _fill(store, end=False)
    _delete(store)
    assert store.register(registration(), NOW, max_runs=10) == 4
    assert add(store, "run", 1, [observed(2), observed(4), observed(5), observed(6)], None, NOW) == {5, 6}
    assert _sequences(store) == [5, 6]
    assert store.run("run").observations == 2


def test_that_it_comes_back_is_said(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    _fill(store)
    _delete(store)
    store.register(registration(), NOW, max_runs=10)
    store.register(registration(), NOW, max_runs=10)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "attempt 1 of run run was deleted" in said
    assert "items up to number 4 are acknowledged and stay deleted" in said


def test_one_that_had_ended_and_only_asks_again_has_ended(store: Store) -> None:
    _fill(store)
    _delete(store)
    store.register(registration(), NOW, max_runs=10)
    finish = store.run("run").finish
    assert finish is not None
    assert finish.outcome == pb.Finish.OUTCOME_FINISHED
    assert add(store, "run", 1, [finished(4, step=3)], None, NOW) == set()


def test_it_can_be_deleted_again(store: Store) -> None:
    _fill(store)
    _delete(store)
    store.register(registration(), NOW, max_runs=10)
    add(store, "run", 1, [observed(5)], None, NOW)
    _delete(store)
    assert store.register(registration(), NOW, max_runs=10) == 5


def test_another_training_of_its_name_begins_anew(store: Store) -> None:
    _fill(store)
    _delete(store)
    assert store.register(registration(started_at=1.8e9), NOW, max_runs=10) == 0
    assert add(store, "run", 1, [observed(1)], None, NOW) == {1}
    assert _sequences(store) == [1]


def test_a_later_attempt_goes_on_with_the_name(store: Store) -> None:
    _fill(store)
    _delete(store)
    assert store.register(registration(attempt=2, resumed_from_step=3), NOW, max_runs=10) == 0
    assert add(store, "run", 2, [observed(1, step=4)], None, NOW) == {1}


def test_what_comes_while_it_goes_is_not_taken_and_not_lost(store: Store) -> None:
    _fill(store, count=120, end=False)
    store.delete("run", NOW)
    store.delete_more("run")
    with pytest.raises(StoreError, match=r"was deleted from the store\. Nothing of this was stored: its sender"):
        add(store, "run", 1, [observed(122)], None, NOW)
    with pytest.raises(StoreError, match=r"was deleted from the store\. Nothing of this was stored"):
        store.register(registration(), NOW, max_runs=10)
    while store.delete_more("run").rows:
        pass
    # As the sender does then.
    assert store.register(registration(), NOW, max_runs=10) == 121
    assert add(store, "run", 1, [observed(122)], None, NOW) == {122}
    assert _sequences(store) == [122]


def test_on_a_stream_that_was_open_its_sender_is_told_to_register(store: Store) -> None:
    _fill(store)
    _delete(store)
    with pytest.raises(StoreError, match="its sender registers it again"):
        add(store, "run", 1, [observed(5)], None, NOW)


def test_a_deletion_that_was_cut_short_goes_on(store_url: str) -> None:
    store = Store(store_url)
    _fill(store, count=120)
    store.delete("run", NOW)
    store.delete_more("run")
    store.close()
    store = Store(store_url)
    assert store.run_ids() == []
    assert store.deletions() == ["run"]
    while store.delete_more("run").rows:
        pass
    assert store.deletions() == []
    assert store.register(registration(), NOW, max_runs=10) == 121
    store.close()


def test_what_is_remembered_is_small(store_url: str) -> None:
    store = Store(store_url)
    _fill(store, count=300)
    _delete(store)
    store.close()
    engine = open_engine(store_url)
    with engine.connect() as connection:
        (row,) = connection.execute(select(deleted_attempts)).all()
    engine.dispose()
    assert sum(len(part) for part in row if isinstance(part, bytes)) < 200
