"""What stays of a run that is thinned, and that the curves show just that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import select

from monitor.service.quantities.fields import FIELDS
from monitor.service.storage.opening import open_engine
from monitor.service.storage.queries.curves import Range
from monitor.service.storage.queries.thinning import Progress
from monitor.service.storage.store import Store
from monitor.service.storage.stored import START
from monitor.service.storage.tables.schema import curve_values, totals
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import finished, logged, observed, registration
from tests.service.storing import add

NOW = 1.75e9
ALL = Range.of(0, 10_000, 10_001)
NAMES = ["cumulative_sparsity_at:1e-05", "overlap_o1:other seed", "overlap_o2:other seed", "overlap_lift:other seed"]


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = Store(store_url)
    yield store
    store.close()


def _thin(store: Store, keep: int) -> int:
    observations = store.run("run").observations
    plan, progress, removed = store.thinning("run", observations, keep), Progress(), 0
    while progress.after is not None:
        progress = store.thin_more(plan, progress)
        removed += progress.removed
    assert store.run("run").observations == observations - removed
    return removed


def _steps(store: Store) -> list[int]:
    return [each.position.step for each in store.history("run", START, 10_000, "observation")]


def _fill(store: Store, count: int) -> None:
    store.register(registration(), NOW, max_runs=10)
    both = ([observed(2 * n, step=n), logged(2 * n + 1, step=n, loss=float(n))] for n in range(1, count + 1))
    add(store, "run", 1, [*(item for pair in both for item in pair), finished(2 * count + 2, step=count)], None, NOW)


def test_first_last_and_every_kth_stay(store: Store) -> None:
    _fill(store, 333)
    latest = store.run("run").observation
    _thin(store, keep=12)
    steps = _steps(store)
    assert steps == [*range(1, 333, 31), 333]
    assert len(steps) <= 12
    assert store.run("run").observation == latest


def test_what_stays_is_as_it_was_sent(store: Store) -> None:
    _fill(store, 100)
    before = {each.position: each.item.SerializeToString() for each in store.history("run", START, 1000)}
    _thin(store, keep=10)
    after = {each.position: each.item.SerializeToString() for each in store.history("run", START, 1000)}
    assert after.items() <= before.items()
    logs = store.history("run", START, 1000, "training_log")
    assert len(logs) == 100
    assert store.run("run").finish is not None


def test_curves_are_those_of_what_stays(store: Store) -> None:
    _fill(store, 130)
    before = store.curves("run", [*FIELDS, *NAMES], ALL, 2000)
    _thin(store, keep=10)
    steps = _steps(store)
    after = store.curves("run", [*FIELDS, *NAMES], ALL, 2000)
    assert after.keys() == before.keys()
    for name, curve in after.items():
        assert curve.step == steps
        assert curve.last == [before[name].last[step - 1] for step in steps]
    assert store.curves("run", ["metric:loss"], ALL, 2000)["metric:loss"].step == list(range(1, 131))
    assert [each.step for each in store.last_observations("run", ALL)] == steps
    assert len(store.items_at("run", store.last_observations("run", ALL))) == len(steps)


def test_the_index_holds_no_row_of_what_went(store_url: str) -> None:
    store = Store(store_url)
    _fill(store, 130)
    _thin(store, keep=10)
    steps = _steps(store)
    store.close()
    engine = open_engine(store_url)
    with engine.connect() as connection:
        of_totals = set(connection.execute(select(totals.c.step)).scalars())
        named = select(curve_values.c.step).where(curve_values.c.name != "metric:loss")
        of_names = set(connection.execute(named).scalars())
    engine.dispose()
    assert of_totals == of_names == set(steps)


def test_thinned_once_more_nothing_more_goes(store: Store) -> None:
    _fill(store, 200)
    assert _thin(store, keep=20) > 0
    assert _thin(store, keep=20) == 0


def test_what_was_superseded_goes_and_a_sender_is_still_told_what_arrived(store: Store) -> None:
    store.register(registration(), NOW, max_runs=10)
    add(store, "run", 1, [observed(n) for n in range(1, 101)], None, NOW)
    store.register(registration(attempt=2, resumed_from_step=50), NOW, max_runs=10)
    add(store, "run", 2, [*(observed(n, step=50 + n) for n in range(1, 21)), finished(21, step=70)], None, NOW)
    _thin(store, keep=8)
    assert _steps(store) == [*range(1, 71, 12), 70]
    assert store.register(registration(), NOW, max_runs=10) == 100
    assert store.register(registration(attempt=2, resumed_from_step=50), NOW, max_runs=10) == 21
    assert store.items_at("run", []) == []


def test_where_a_resumed_attempt_observed_nothing_yet_the_latest_observation_stays(store: Store) -> None:
    store.register(registration(), NOW, max_runs=10)
    add(store, "run", 1, [observed(n) for n in range(1, 101)], None, NOW)
    store.register(registration(attempt=2, resumed_from_step=77), NOW, max_runs=10)
    latest = store.run("run").observation
    assert latest is not None
    assert latest.position.step == 77
    _thin(store, keep=5)
    assert store.run("run").observation == latest


def test_what_is_sent_again_is_stored_again_and_once(store: Store) -> None:
    _fill(store, 50)
    _thin(store, keep=5)
    again: list[pb.Item] = [observed(20, step=10), observed(20, step=10), observed(2, step=1)]
    assert add(store, "run", 1, again, None, NOW) == {20}
    assert _steps(store).count(10) == 1
